//! An article before it is XML: sections of paragraphs, lists, tables and figures, and how a copy of it is edited.

use super::grammar::{self, Topic, expand, sentence};
use super::prng::Prng;
use super::vocabulary::list;
use std::collections::HashSet;
use xxhash_rust::xxh3::Xxh3;

/// What kind of article it is; sets its sections and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Structured abstract, four sections, tables, figures: about 900 to 4,500 words.
    Research,
    /// Case presentation and discussion: about 500 to 1,300 words.
    CaseReport,
    /// A few paragraphs: about 230 to 420 words.
    Letter,
}

/// A whole article. Citations stand in the text as `[12]`.
#[derive(Debug, Clone)]
pub struct Article {
    pub kind: Kind,
    pub title: String,
    /// Family name, given name.
    pub authors: Vec<(&'static str, &'static str)>,
    pub journal: String,
    /// Year, month, day.
    pub published: (u64, u64, u64),
    pub keywords: Vec<&'static str>,
    pub abstract_sections: Vec<Section>,
    pub body: Vec<Section>,
    pub references: Vec<String>,
}

/// A section with its blocks and the sections below it; an empty title is none.
#[derive(Debug, Clone, Default)]
pub struct Section {
    pub title: &'static str,
    pub blocks: Vec<Block>,
    pub sections: Vec<Section>,
}

/// A block of a section.
#[derive(Debug, Clone)]
pub enum Block {
    /// Sentences.
    Paragraph(Vec<String>),
    /// Items.
    List(Vec<String>),
    /// Number, caption, rows of cells; the first row is the head.
    Table(u64, String, Vec<Vec<String>>),
    /// Number, caption.
    Figure(u64, String),
}

impl Article {
    /// Writes a new article.
    pub fn draw(kind: Kind, prng: &mut Prng) -> Self {
        let topic = Topic::draw(prng);
        let title = sentence(if kind == Kind::CaseReport { "casetitle" } else { "title" }, &topic, prng);
        let num_authors = prng.between(2, 9);
        let word = |name, prng: &mut Prng| prng.pick(list(name)).copied().unwrap_or_default();
        let authors = (0..num_authors).map(|_| (word("surname", prng), word("given", prng))).collect();
        let (abstract_sections, body) = match kind {
            Kind::Research => research(&topic, prng),
            Kind::CaseReport => case_report(&topic, prng),
            Kind::Letter => letter(&topic, prng),
        };
        Self {
            kind,
            title,
            authors,
            journal: sentence("journal", &topic, prng),
            published: (prng.between(2008, 2024), prng.between(1, 12), prng.between(1, 28)),
            keywords: vec![topic.disease, topic.treatment, word("procedure", prng), word("gene", prng)],
            abstract_sections,
            body,
            references: (0..topic.num_references).map(|_| reference(prng)).collect(),
        }
    }

    /// The text as a reader renders it, paragraph by paragraph: section titles, sentences, `- item`, `cell | cell`, captions.
    pub fn paragraphs(&self) -> Vec<String> {
        let mut out = Vec::new();
        for section in self.abstract_sections.iter().chain(&self.body) {
            section.render(&mut out);
        }
        out
    }

    /// Every prose sentence, in order, with the list it was drawn from.
    fn sentences_mut(&mut self) -> Vec<&mut String> {
        let mut out = Vec::new();
        for section in self.abstract_sections.iter_mut().chain(&mut self.body) {
            section.sentences_mut(&mut out);
        }
        out
    }

    /// Puts a sentence at the end of a body paragraph.
    pub fn plant_sentence(&mut self, text: String, prng: &mut Prng) {
        let mut paragraphs = Vec::new();
        for section in &mut self.body {
            section.paragraphs_mut(&mut paragraphs);
        }
        let chosen = prng.below(paragraphs.len() as u64) as usize;
        if let Some(paragraph) = paragraphs.get_mut(chosen) {
            paragraph.push(text);
        }
    }

    /// Puts a paragraph at the end of the last body section.
    pub fn plant_paragraph(&mut self, text: String) {
        if let Some(section) = self.body.last_mut() {
            section.blocks.push(Block::Paragraph(vec![text]));
        }
    }

    /// A copy edited until its word 5-grams have the Jaccard similarity `target` with this article's, as near as whole edits allow;
    /// and the similarity reached.
    pub fn revised(&self, target: f64, revision: Revision, prng: &mut Prng) -> (Self, f64) {
        let original = shingles(&self.paragraphs());
        let attempt = |edits: &[Edit]| {
            let copy = self.edited(edits);
            let reached = jaccard(&original, &shingles(&copy.paragraphs()));
            (copy, reached)
        };
        // Whole sentences first, where they are asked for; then single words, which weigh less.
        let mut chosen = Vec::new();
        let mut next = Vec::new();
        let kinds = if revision == Revision::Rewritten { vec![revision, Revision::CopyEdited] } else { vec![revision] };
        for kind in kinds {
            let edits = self.edits(kind, prng);
            // Similarity falls with the number of edits: the last count that is still above the target.
            let (mut low, mut high) = (0, edits.len());
            while low < high {
                let middle = (low + high).div_ceil(2);
                let tried = [chosen.as_slice(), edits.get(..middle).unwrap_or_default()].concat();
                if attempt(&tried).1 >= target { low = middle } else { high = middle - 1 }
            }
            next = [chosen.as_slice(), edits.get(..=low).unwrap_or_default()].concat();
            chosen.extend_from_slice(edits.get(..low).unwrap_or_default());
        }
        let (above, below) = (attempt(&chosen), attempt(&next));
        if (above.1 - target).abs() <= (target - below.1).abs() { above } else { below }
    }

    fn edits(&self, revision: Revision, prng: &mut Prng) -> Vec<Edit> {
        let mut copy = self.clone();
        let topic = Topic::draw(prng);
        let mut edits = Vec::new();
        for (index, text) in copy.sentences_mut().into_iter().enumerate() {
            match revision {
                Revision::Rewritten => {
                    let name = ["results", "discussion", "background", "methods"].get(prng.below(4) as usize).copied().unwrap_or("results");
                    edits.push(Edit { sentence: index, word: None, text: sentence(name, &topic, prng) });
                }
                Revision::CopyEdited => {
                    let words =
                        text.split(' ').enumerate().filter(|(_, word)| word.len() > 3 && word.bytes().all(|b| b.is_ascii_lowercase()));
                    for (word, _) in words {
                        let text = prng.pick(list("adjective")).copied().unwrap_or_default().to_string();
                        edits.push(Edit { sentence: index, word: Some(word), text });
                    }
                }
            }
        }
        prng.shuffle(&mut edits);
        edits
    }

    fn edited(&self, edits: &[Edit]) -> Self {
        let mut copy = self.clone();
        let mut sentences = copy.sentences_mut();
        for edit in edits {
            let Some(text) = sentences.get_mut(edit.sentence) else { continue };
            match edit.word {
                None => **text = edit.text.clone(),
                Some(at) => {
                    let words: Vec<&str> =
                        text.split(' ').enumerate().map(|(index, word)| if index == at { edit.text.as_str() } else { word }).collect();
                    **text = words.join(" ");
                }
            }
        }
        copy
    }
}

/// How a near-duplicate differs from its original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// Single words are replaced, all over the text.
    CopyEdited,
    /// Whole sentences are replaced.
    Rewritten,
}

#[derive(Clone)]
struct Edit {
    sentence: usize,
    /// The word replaced, or the whole sentence.
    word: Option<usize>,
    text: String,
}

/// The set of word 5-grams, lower-cased, as hashes.
pub fn shingles(paragraphs: &[String]) -> HashSet<u64> {
    let words: Vec<String> = paragraphs.iter().flat_map(|text| text.split_whitespace()).map(str::to_lowercase).collect();
    let hash = |gram: &[String]| {
        let mut hasher = Xxh3::new();
        for word in gram {
            hasher.update(word.as_bytes());
            hasher.update(b" ");
        }
        hasher.digest()
    };
    words.windows(5).map(hash).collect()
}

/// Jaccard similarity of two sets; 1 of two empty ones.
pub fn jaccard(left: &HashSet<u64>, right: &HashSet<u64>) -> f64 {
    let both = left.intersection(right).count();
    let either = left.len() + right.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

impl Section {
    fn render(&self, out: &mut Vec<String>) {
        if !self.title.is_empty() {
            out.push(self.title.to_string());
        }
        for block in &self.blocks {
            match block {
                Block::Paragraph(sentences) => out.push(sentences.join(" ")),
                Block::List(items) => out.extend(items.iter().map(|item| format!("- {item}"))),
                Block::Table(number, caption, rows) => {
                    out.push(format!("Table {number}"));
                    out.push(caption.clone());
                    out.extend(rows.iter().map(|cells| cells.join(" | ")));
                }
                Block::Figure(number, caption) => {
                    out.push(format!("Figure {number}"));
                    out.push(caption.clone());
                }
            }
        }
        for section in &self.sections {
            section.render(out);
        }
    }

    fn paragraphs_mut<'a>(&'a mut self, out: &mut Vec<&'a mut Vec<String>>) {
        for block in &mut self.blocks {
            if let Block::Paragraph(sentences) = block {
                out.push(sentences);
            }
        }
        for section in &mut self.sections {
            section.paragraphs_mut(out);
        }
    }

    fn sentences_mut<'a>(&'a mut self, out: &mut Vec<&'a mut String>) {
        for block in &mut self.blocks {
            if let Block::Paragraph(sentences) = block {
                out.extend(sentences);
            }
        }
        for section in &mut self.sections {
            section.sentences_mut(out);
        }
    }
}

fn research(topic: &Topic, prng: &mut Prng) -> (Vec<Section>, Vec<Section>) {
    // The product of two draws: many short articles and a tail of long ones.
    let scale = 1 + prng.between(2, 9) * prng.between(2, 9) / 11;
    let mut floats = Floats::default();
    let summary = [("Background", "background"), ("Methods", "methods"), ("Results", "results"), ("Conclusions", "conclusion")];
    let abstract_sections =
        summary.map(|(title, name)| Section { title, blocks: vec![paragraph(name, 2, topic, prng)], sections: Vec::new() }).into();
    let introduction = section("Introduction", "background", 1 + scale / 3, topic, prng);

    let mut methods = section("Methods", "methods", 1, topic, prng);
    let mut participants = section("Participants", "methods", scale / 3, topic, prng);
    participants.blocks.push(Block::List((0..prng.between(3, 6)).map(|_| item(topic, prng)).collect()));
    methods.sections = vec![
        participants,
        section("Measurements", "methods", 1 + scale / 3, topic, prng),
        section("Statistical analysis", "statistics", 1, topic, prng),
    ];

    let mut results = section("Results", "results", 1 + scale / 2, topic, prng);
    for _ in 0..1 + scale / 4 {
        results.blocks.push(floats.table(topic, prng));
        results.blocks.push(paragraph("results", 3, topic, prng));
    }
    if prng.chance(70) {
        results.blocks.push(floats.figure(topic, prng));
    }
    results.sections = vec![section("Adverse events", "results", 1 + scale / 4, topic, prng)];

    let mut discussion = section("Discussion", "discussion", 2 + scale / 2, topic, prng);
    discussion.sections = vec![section("Limitations", "limitation", 1, topic, prng)];
    let conclusions = section("Conclusions", "conclusion", 1, topic, prng);
    (abstract_sections, vec![introduction, methods, results, discussion, conclusions])
}

fn case_report(topic: &Topic, prng: &mut Prng) -> (Vec<Section>, Vec<Section>) {
    let mut floats = Floats::default();
    let summary = Section { title: "", blocks: vec![paragraph("case", 3, topic, prng)], sections: Vec::new() };
    let mut presentation = section("Case presentation", "case", prng.between(1, 3), topic, prng);
    if prng.chance(60) {
        presentation.blocks.push(floats.figure(topic, prng));
    }
    presentation.sections = vec![section("Treatment and outcome", "course", prng.between(1, 3), topic, prng)];
    let body = vec![
        section("Introduction", "background", 1, topic, prng),
        presentation,
        section("Discussion", "discussion", prng.between(1, 4), topic, prng),
        section("Conclusion", "conclusion", 1, topic, prng),
    ];
    (vec![summary], body)
}

fn letter(topic: &Topic, prng: &mut Prng) -> (Vec<Section>, Vec<Section>) {
    let blocks = ["discussion", "results", "discussion"].map(|name| paragraph(name, 4, topic, prng)).into();
    (Vec::new(), vec![Section { title: "", blocks, sections: Vec::new() }])
}

fn section(title: &'static str, name: &str, num_paragraphs: u64, topic: &Topic, prng: &mut Prng) -> Section {
    let blocks = (0..num_paragraphs).map(|_| paragraph(name, 3, topic, prng)).collect();
    Section { title, blocks, sections: Vec::new() }
}

/// A paragraph of `least` to twice as many sentences.
fn paragraph(name: &str, least: u64, topic: &Topic, prng: &mut Prng) -> Block {
    let num_sentences = prng.between(least, 2 * least);
    Block::Paragraph((0..num_sentences).map(|_| sentence(name, topic, prng)).collect())
}

fn item(topic: &Topic, prng: &mut Prng) -> String {
    sentence("criterion", topic, prng)
}

fn reference(prng: &mut Prng) -> String {
    let topic = Topic::draw(prng);
    sentence("title", &topic, prng)
}

/// Numbers tables and figures.
#[derive(Default)]
struct Floats {
    num_tables: u64,
    num_figures: u64,
}

impl Floats {
    fn table(&mut self, topic: &Topic, prng: &mut Prng) -> Block {
        self.num_tables += 1;
        let cell = |pattern: &str, prng: &mut Prng| {
            let mut text = String::new();
            expand(pattern, topic, prng, &mut text, 0);
            text
        };
        let mut rows = vec![vec!["Characteristic".to_string(), cell("{TREATMENT} (n = {n})", prng), cell("{COMPARATOR} (n = {n})", prng)]];
        if let Some(head) = rows.first_mut() {
            head.iter_mut().for_each(grammar::capitalize);
        }
        for _ in 0..prng.between(4, 9) {
            let value = if prng.chance(50) { "{n} ({pct})" } else { "{d} ± {s}" };
            rows.push(vec![sentence("row", topic, prng), cell(value, prng), cell(value, prng)]);
        }
        Block::Table(self.num_tables, sentence("tablecaption", topic, prng), rows)
    }

    fn figure(&mut self, topic: &Topic, prng: &mut Prng) -> Block {
        self.num_figures += 1;
        Block::Figure(self.num_figures, sentence("caption", topic, prng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revised_copies_reach_the_similarity_asked_for() {
        let mut prng = Prng::new(5, 0);
        for revision in [Revision::CopyEdited, Revision::Rewritten] {
            for target in [0.5, 0.7, 0.88, 0.95, 0.99] {
                let article = Article::draw(Kind::Research, &mut prng);
                let (copy, reached) = article.revised(target, revision, &mut prng);
                assert!((reached - target).abs() < 0.012, "{revision:?} {target}: {reached}");
                assert_eq!(reached, jaccard(&shingles(&article.paragraphs()), &shingles(&copy.paragraphs())));
            }
        }
    }

    #[test]
    fn lengths_are_those_of_the_kind() {
        for (kind, least, most) in [(Kind::Research, 800, 6_000), (Kind::CaseReport, 400, 1_800), (Kind::Letter, 200, 700)] {
            for seed in 0..50 {
                let article = Article::draw(kind, &mut Prng::new(seed, 1));
                let words: usize = article.paragraphs().iter().map(|text| text.split_whitespace().count()).sum();
                assert!((least..most).contains(&words), "{kind:?} {words}");
            }
        }
    }
}
