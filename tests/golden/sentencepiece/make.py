"""Makes two small SentencePiece models and the ids that SentencePiece gives some strings. Needs sentencepiece==0.2.3; run in this folder."""

import io
import json
import pathlib

import sentencepiece

SENTENCES = [
    f"{subject} {verb} {amount} {unit} of {drug} {time}."
    for subject in ("The patient", "She", "He", "The child in room 12", "Frau Müller")
    for verb in ("received", "was given", "tolerated", "refused", "had taken")
    for amount in ("5", "2.5", "100", "1,000", "half")
    for unit in ("mg", "mL", "tablets", "µg")
    for drug in ("amoxicillin", "paracetamol", "ibuprofen", "saline", "naïve co-trimoxazole")
    for time in ("daily", "at night", "before surgery", "for 7 days")
]
CASES = [
    "", " ", "  ", "a", "The patient received 5 mg of saline daily.", " leading", "trailing ", "two  spaces   three", "line\nbreak\ttab",
    "Frau Müller", "naïve", "ﬁne ﬂow", "½ tablet", "日本語 text", "😀 emoji", "▁ already", "<s> and </s>", "amoxicillinamoxicillin",
    "AMOXICILLIN 5MG", "a\u00a0b", "e\u0301 combining", "...!!!", "x" * 40, "The  patient  <s>  was given\r\n100 µg",
]
here = pathlib.Path(__file__).parent
# The ligature fi and the half become plain characters: a normaliser with a table, without the quarter of a megabyte of a full one.
rules = here / "rules.tsv"
rules.write_text("FB01\t66 69\nBD\t31 2F 32\n")
expected = {"cases": CASES}
for name, kind, extra in (
    ("bpe", "bpe", {"byte_fallback": True, "add_dummy_prefix": True, "remove_extra_whitespaces": False,
                    "normalization_rule_name": "identity"}),
    ("unigram", "unigram", {"byte_fallback": False, "normalization_rule_tsv": str(rules)}),
):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type=kind, vocab_size=420 if kind == "bpe" else 160,
        hard_vocab_limit=False, num_threads=1, minloglevel=2, **extra,
    )
    (here / f"{name}.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    expected[name] = [processor.encode(text) for text in CASES]
rules.unlink()
(here / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=0) + "\n")
