use super::cut::{Cut, segments};
use super::*;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

/// A tokenizer in the shared data, and the column of its golden ids. GPT-2 comes as vocabulary and merges.
fn shared_tokenizer(name: &str) -> Option<Vec<u8>> {
    if name != "gpt2" {
        return Some(fs::read(shared(&format!("tokenizers/{name}.tokenizer.json"))?).unwrap());
    }
    let vocab: Value = serde_json::from_slice(&fs::read(shared("tokenizers/gpt2.vocab.json")?).unwrap()).unwrap();
    let merges = fs::read_to_string(shared("tokenizers/gpt2.merges.txt")?).unwrap();
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let eos = json!({"id": 50256, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [eos], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges}});
    Some(serde_json::to_vec(&file).unwrap())
}

fn load(name: &str) -> Option<Tokenizer> {
    Some(Tokenizer::load(&shared_tokenizer(name)?, name, &TokenizerConfig::default()).unwrap())
}

/// The same tokenizer as the library runs it by itself, without cuts.
fn plain(name: &str) -> Option<PipelineTokenizer> {
    let json = tokenizers::canonicalize_str(std::str::from_utf8(&shared_tokenizer(name)?).unwrap()).unwrap();
    Some(tokenizers::from_json(&json).unwrap())
}

fn ids_of(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Ids::default();
    tokenizer.encode_into(text, &mut ids).unwrap();
    ids.as_slice().to_vec()
}

fn plain_ids_of(pipeline: &PipelineTokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let options = EncodeOptions { add_special_tokens: false, encode_special_tokens: true, ..EncodeOptions::default() };
    pipeline.encode_into(text, &options, &mut ids).unwrap();
    PipelineToken::cast_slice(&ids).to_vec()
}

fn load_model(bytes: &[u8]) -> Tokenizer {
    Tokenizer::load(&sentencepiece::to_json(bytes).unwrap(), "model", &TokenizerConfig::default()).unwrap()
}

#[test]
fn sentencepiece_models_give_the_ids_of_sentencepiece() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/sentencepiece"));
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    for name in ["bpe", "unigram"] {
        let tokenizer = load_model(&fs::read(folder.join(format!("{name}.model"))).unwrap());
        let cases: Vec<String> = serde_json::from_value(expected["cases"].clone()).unwrap();
        let wanted: Vec<Vec<u32>> = serde_json::from_value(expected[name].clone()).unwrap();
        assert!(cases.len() > 20 && cases.len() == wanted.len());
        for (text, wanted) in cases.iter().zip(wanted) {
            // Unigram's pieces include the special tokens, so a spelling of one is broken up to stay text; SentencePiece never looks for it.
            if name == "unigram" && text.contains("<s>") {
                assert!(!ids_of(&tokenizer, text).iter().any(|id| [1, 2].contains(id)), "{text:?}");
                continue;
            }
            assert_eq!(ids_of(&tokenizer, text), wanted, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_damaged_sentencepiece_model_is_refused() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/sentencepiece"));
    let whole = fs::read(folder.join("unigram.model")).unwrap();
    let mut refused = 0;
    for len in 0..whole.len() {
        // A message may end after any field; what is left must then load or be refused, and never panic.
        refused += usize::from(sentencepiece::to_json(&whole[..len]).is_err());
    }
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
    let error = sentencepiece::to_json(b"{\"version\": \"1.0\"}").unwrap_err().to_string();
    assert!(error.contains("SentencePiece"), "{error}");
    assert_eq!(sentencepiece::read_as_json("tokenizer.json".as_ref(), whole.clone()).unwrap(), whole);
    assert_eq!(sentencepiece::read_as_json("tokenizer.model".as_ref(), whole.clone()).unwrap()[0], b'{');
}

#[test]
fn the_models_of_mistral_give_their_golden_ids() {
    for name in ["mistral_7b_v1", "mistral_7b_v3"] {
        let (Some(model), Some(golden)) = (shared(&format!("tokenizers/{name}.tokenizer.model")), shared("tokenizers/golden_tokens.jsonl"))
        else {
            return;
        };
        let tokenizer = load_model(&fs::read(model).unwrap());
        let mut compared = 0;
        for line in fs::read_to_string(golden).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let wanted: Vec<u32> = serde_json::from_value(line[name].clone()).unwrap();
            assert_eq!(ids_of(&tokenizer, line["text"].as_str().unwrap()), wanted, "{name}");
            compared += 1;
        }
        assert!(compared > 70);
    }
    // The file that was made from the first one elsewhere has the same pieces and the same merges in the same order.
    let (Some(model), Some(json)) = (shared("tokenizers/mistral_7b_v1.tokenizer.model"), shared("tokenizers/mistral_7b_v1.tokenizer.json"))
    else {
        return;
    };
    let ours: Value = serde_json::from_slice(&sentencepiece::to_json(&fs::read(model).unwrap()).unwrap()).unwrap();
    let theirs: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert!(ours["model"]["vocab"] == theirs["model"]["vocab"], "pieces");
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.clone(),
        merge => format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()),
    };
    let merges = |file: &Value| file["model"]["merges"].as_array().unwrap().iter().map(pair).collect::<Vec<_>>();
    assert!(merges(&ours) == merges(&theirs), "merges");
}

#[derive(Deserialize)]
struct Golden {
    text: String,
    #[serde(flatten)]
    ids: HashMap<String, Value>,
}

impl Golden {
    fn all() -> Option<Vec<Self>> {
        let lines = fs::read_to_string(shared("tokenizers/golden_tokens.jsonl")?).unwrap();
        Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        serde_json::from_value(self.ids[name].clone()).unwrap()
    }
}

#[test]
fn golden_ids_come_out() {
    let Some(golden) = Golden::all() else { return };
    assert_eq!(golden.len(), 77);
    for name in ["mistral_7b_v1", "qwen2", "gpt2"] {
        let Some(tokenizer) = load(name) else { return };
        for (line, golden) in golden.iter().enumerate() {
            assert_eq!(ids_of(&tokenizer, &golden.text), golden.ids(name), "{name}, line {line}");
        }
    }
}

/// Version 3 is version 1 with 768 pieces in front of the ordinary ones, behind `<unk>`, `<s>`, `</s>`: checks that the golden file and our
/// version 1 agree on it too.
#[test]
fn third_mistral_is_the_first_shifted() {
    let (Some(golden), Some(tokenizer)) = (Golden::all(), load("mistral_7b_v1")) else { return };
    for golden in golden {
        let shifted: Vec<u32> = ids_of(&tokenizer, &golden.text).iter().map(|id| id + 768).collect();
        assert_eq!(shifted, golden.ids("mistral_7b_v3"));
    }
}

#[test]
fn special_ids_are_found() {
    for (name, eos, bos, pad, vocab_size) in
        [("mistral_7b_v1", 2, Some(1), 2, 32_000), ("qwen2", 151_643, None, 151_643, 151_646), ("gpt2", 50_256, None, 50_256, 50_257)]
    {
        let Some(tokenizer) = load(name) else { return };
        let identity = tokenizer.identity();
        assert_eq!((identity.eos_id, identity.bos_id, identity.pad_id, identity.vocab_size), (eos, bos, pad, vocab_size), "{name}");
    }
    let Some(bytes) = shared_tokenizer("qwen2") else { return };
    let with = |config: TokenizerConfig| Tokenizer::load(&bytes, "qwen2", &config).map(|tokenizer| tokenizer.identity().eos_id);
    assert_eq!(with(TokenizerConfig { eos: Some("<|im_end|>".into()), ..TokenizerConfig::default() }).unwrap(), 151_645);
    let error = with(TokenizerConfig { eos: Some("<|nothing|>".into()), ..TokenizerConfig::default() }).unwrap_err().to_string();
    assert_eq!(error, "tokenize: `eos` qwen2 has no token `<|nothing|>`");
    assert!(with(TokenizerConfig { add_bos: true, ..TokenizerConfig::default() }).is_err());
}

#[test]
fn cuts_change_no_id() {
    let Some(golden) = Golden::all() else { return };
    let passages: Vec<&str> = golden.iter().map(|golden| golden.text.as_str()).collect();
    for (name, cut) in [("mistral_7b_v1", Cut::Drop), ("qwen2", Cut::Keep), ("gpt2", Cut::Keep)] {
        let (Some(tokenizer), Some(plain)) = (load(name), plain(name)) else { return };
        assert_eq!(tokenizer.cut, Some(cut), "{name}");
        // White space of every kind between passages, and more than ten cuts.
        let mut text = String::new();
        for (at, separator) in [" ", "\n\n", "  ", "\t", "", " \n ", "\u{a0}", "▁", " ▁ ▁▁ "].iter().cycle().enumerate().take(3000)
        {
            text.push_str(passages[at % passages.len()]);
            text.push_str(separator);
        }
        assert!(segments(&text, Some(cut)).count() > 10);
        assert_eq!(ids_of(&tokenizer, &text), plain_ids_of(&plain, &text), "{name}");
    }
}

#[test]
fn segments_give_the_text_back() {
    let text = "word ".repeat(100_000) + &"x".repeat(9 << 20) + " tail of it";
    for (cut, joint) in [(Some(Cut::Keep), ""), (Some(Cut::Drop), " "), (None, "")] {
        let parts: Vec<_> = segments(&text, cut).collect();
        let mut whole = String::new();
        for (at, part) in parts.iter().enumerate() {
            whole.push_str(part.text);
            if at + 1 < parts.len() && !part.forced {
                whole.push_str(joint);
            }
        }
        assert!(whole == text, "{cut:?}");
        assert_eq!(parts.iter().filter(|part| part.forced).count(), 1, "{cut:?}");
        assert!(parts.iter().all(|part| part.text.len() <= cut::MAX_SEGMENT_BYTES));
    }
    assert_eq!(segments("", Some(Cut::Keep)).count(), 1);
    let wide = "日".repeat(4 << 20);
    assert!(segments(&wide, None).map(|part| part.text.len()).sum::<usize>() == wide.len());
}

#[test]
fn special_tokens_in_a_text_stay_text() {
    for name in ["mistral_7b_v1", "qwen2", "gpt2"] {
        let Some(tokenizer) = load(name) else { return };
        let spelling = &tokenizer.special[0].1;
        let special: Vec<u32> = tokenizer.special.iter().map(|(id, _)| *id).collect();
        for text in [spelling.clone(), format!("a {spelling} b{spelling}{spelling}")] {
            let ids = ids_of(&tokenizer, &text);
            assert!(!ids.is_empty() && ids.iter().all(|id| !special.contains(id)), "{name}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}");
        }
    }
}

/// A model whose lookup gives a special token for its spelling: whole words.
fn word_level() -> Vec<u8> {
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "<": 2, "/s>": 3, "word": 4}, "unk_token": "<unk>"}});
    serde_json::to_vec(&file).unwrap()
}

#[test]
fn spelling_of_a_special_token_is_broken_where_the_model_finds_it() {
    let tokenizer = Tokenizer::load(&word_level(), "words", &TokenizerConfig::default()).unwrap();
    let mut ids = Ids::default();
    let incidents = tokenizer.encode_document_into("word </s> word", &mut ids).unwrap();
    assert_eq!(ids.as_slice(), [4, 2, 3, 4, 1]);
    assert_eq!(incidents, Incidents { num_forced_cuts: 0, num_broken_specials: 1 });
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let load = |bytes: &[u8]| Tokenizer::load(bytes, "file", &TokenizerConfig::default()).map(|_| ()).unwrap_err().to_string();
    for bytes in
        [&b""[..], b"{}", b"[]", b"{\"model\": 3}", b"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}", &[0xff, 0xfe]]
    {
        assert!(load(bytes).starts_with("tokenize: `path` file: "), "{}", load(bytes));
    }
}

fn batch(texts: &[&str]) -> RecordBatch {
    let ids: Vec<String> = (0..texts.len()).map(|row| format!("id{row}")).collect();
    let sources = vec!["s"; texts.len()];
    let column = |values: StringArray| Arc::new(values) as arrow::array::ArrayRef;
    RecordBatch::try_from_iter([
        ("doc_id", column(StringArray::from(ids))),
        ("source", column(StringArray::from(sources))),
        ("text", column(StringArray::from(texts.to_vec()))),
    ])
    .unwrap()
}

#[test]
fn operator_gives_one_row_per_document_in_order() {
    use arrow::array::AsArray;
    use arrow::datatypes::UInt32Type;
    let tokenizer = Arc::new(Tokenizer::load(&word_level(), "words", &TokenizerConfig::default()).unwrap());
    let mut operator = Tokenize::new(tokenizer);
    let mut out: Vec<RecordBatch> = Vec::new();
    let long = "word ".repeat(BATCH_TOKENS);
    operator.push(batch(&["word word", "", &long, "word"]), &mut out).unwrap();
    operator.push(batch(&[]), &mut out).unwrap();
    operator.finish(&mut out).unwrap();
    assert_eq!(out.len(), 2, "a batch is given out when it is full");
    let mut seen = Vec::new();
    for batch in &out {
        expect::schema(batch.schema_ref(), &document_tokens_schema()).unwrap();
        let lists = expect::list(batch, "input_ids").unwrap();
        for (row, id) in expect::utf8(batch, "doc_id").unwrap().iter().enumerate() {
            let ids = lists.value(row);
            let ids = ids.as_primitive::<UInt32Type>().values();
            assert_eq!(ids.last(), Some(&1));
            seen.push((id.unwrap().to_string(), ids.len()));
        }
    }
    let wanted = [("id0", 3), ("id1", 1), ("id2", BATCH_TOKENS + 1), ("id3", 2)];
    assert_eq!(seen, wanted.map(|(id, len)| (id.to_string(), len)));
    let counters = operator.counters();
    assert_eq!((counters.num_documents, counters.num_tokens), (4, BATCH_TOKENS as u64 + 7));
    assert!(operator.push(RecordBatch::new_empty(document_tokens_schema()), &mut out).is_err(), "no text");
}

/// Not a bar but a guard: a quadratic step would take minutes here.
#[test]
fn long_lines_take_linear_time() {
    for name in ["mistral_7b_v1", "qwen2"] {
        let Some(tokenizer) = load(name) else { return };
        let words = "The patients were given 5 mg of the drug daily, and ".repeat(200_000);
        let start = std::time::Instant::now();
        let num_ids = ids_of(&tokenizer, &words).len();
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{name}: {:.1} MB in {seconds:.2} s, {:.1} MB/s, {num_ids} ids",
            words.len() as f64 / 1e6,
            words.len() as f64 / 1e6 / seconds
        );
        let blob: String = (0..2u64 << 20).map(|at| char::from(b'a' + (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26)).collect();
        let start = std::time::Instant::now();
        ids_of(&tokenizer, &blob);
        let blob_seconds = start.elapsed().as_secs_f64();
        eprintln!("{name}: one word of {} bytes in {blob_seconds:.2} s", blob.len());
        assert!(seconds < 120.0 && blob_seconds < 120.0);
    }
}

#[test]
fn threads_change_nothing() {
    let tokenizer = Arc::new(Tokenizer::load(&word_level(), "words", &TokenizerConfig::default()).unwrap());
    let texts: Vec<String> = (0..57).map(|row| "word ".repeat(row % 9)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rows = |threads: usize| {
        let mut operator = Tokenize::new(tokenizer.clone()).with_threads(threads);
        let mut out: Vec<RecordBatch> = Vec::new();
        operator.push(batch(&texts), &mut out).unwrap();
        operator.finish(&mut out).unwrap();
        (arrow::compute::concat_batches(&document_tokens_schema(), &out).unwrap(), operator.counters())
    };
    let one = rows(1);
    assert_eq!(one.0.num_rows(), texts.len());
    for threads in [2, 3, 64] {
        assert_eq!(rows(threads), one, "{threads} threads");
    }
}

/// Word by word gives what the whole text gives, on texts made of everything that could stand at a word's border.
#[test]
fn remembered_words_change_no_id() {
    let (Some(tokenizer), Some(plain)) = (load("mistral_7b_v1"), plain("mistral_7b_v1")) else { return };
    assert!(tokenizer.words.is_some());
    assert!(load("qwen2").is_some_and(|tokenizer| tokenizer.words.is_none()));
    let parts =
        [" ", "▁", "a", "the", "Übelkeit", "\n", "\t", "<s>", "日本", "\u{301}", "🜀", "\0", "\u{a0}", "mg/dL", "12,5", "_", "▁▁", "  "];
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let text: String = (0..next(9)).map(|_| parts[next(parts.len())]).collect();
        assert_eq!(ids_of(&tokenizer, &text), plain_ids_of(&plain, &text), "{text:?}");
    }
    for golden in Golden::all().unwrap_or_default() {
        assert_eq!(ids_of(&tokenizer, &golden.text), plain_ids_of(&plain, &golden.text));
    }
}
