//! Which file is what: the numbers of the files are mixed, so that what is planted does not lie together.

use super::{Article, Collection, Fault, Front, Habit, Kind, PASSAGES, Prng, Revision, Settings, TARGETS, jats};
use jats::License;

/// Most holders of a passage that has to stand between different bytes: one per letter and digit.
const HOLDERS_MAX: u64 = 36;

const LETTERS: &[u8; HOLDERS_MAX as usize] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What a file is. Indices count within the role.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    Original(u64),
    Near { index: u64, original: u64, target: f64, revision: Revision },
    Copy { index: u64, original: u64, same_file: bool },
    Bad { index: u64, fault: Fault },
}

/// The settings as whole numbers of files, in the order original, near, copy, bad.
#[derive(Debug, Clone)]
pub struct Plan {
    pub num_files: u64,
    seed: u64,
    num_originals: u64,
    num_near: u64,
    num_copies: u64,
    /// Originals with near-duplicates come first, then those with exact copies, then plain ones.
    num_families: u64,
    /// Holders of each repeated passage are `repeat_share` of the plain originals, in 1/1000.
    repeat_permille: u64,
    /// `file = place * step + offset` modulo the number of files.
    step: u64,
    step_inverse: u64,
    offset: u64,
}

impl Plan {
    pub fn new(settings: &Settings) -> Self {
        let num_files = settings.articles;
        let share = |share: f64| if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        let count = |part: f64, limit: u64| ((share(part) * num_files as f64).round() as u64).min(limit);
        // Every copy needs an original of its own: half of the files are enough for both kinds.
        let num_near = count(settings.near_duplicate_share, num_files / 3);
        let num_copies = count(settings.exact_copy_share, num_files / 8);
        let num_bad = count(settings.bad_record_share, num_files / 12);
        let (step, step_inverse) = step(num_files);
        Self {
            num_files,
            seed: settings.seed,
            num_originals: num_files - num_near - num_copies - num_bad,
            num_near,
            num_copies,
            num_families: num_near.checked_sub(1).map_or(0, |last| family(last).0 + 1),
            repeat_permille: (share(settings.repeat_share) * 1000.0).round() as u64,
            step,
            step_inverse,
            offset: Prng::new(settings.seed, u64::MAX).below(num_files.max(1)),
        }
    }

    /// The role of file `number`.
    pub fn role(&self, number: u64) -> Role {
        let turned = u128::from(number) + u128::from(self.num_files) - u128::from(self.offset);
        let place = (turned * u128::from(self.step_inverse) % u128::from(self.num_files.max(1))) as u64;
        if place < self.num_originals {
            return Role::Original(place);
        }
        let index = place - self.num_originals;
        if index < self.num_near {
            let (original, member) = family(index);
            let pattern = TARGETS.get((original % TARGETS.len() as u64) as usize).copied().unwrap_or_default();
            let target = pattern.get(member).copied().unwrap_or(0.9);
            let revision = if original % 2 == 0 { Revision::CopyEdited } else { Revision::Rewritten };
            return Role::Near { index, original, target, revision };
        }
        let index = index - self.num_near;
        if index < self.num_copies {
            return Role::Copy { index, original: self.num_families + index, same_file: index % 3 == 2 };
        }
        let index = index - self.num_copies;
        let fault = Fault::ALL.get((index % Fault::ALL.len() as u64) as usize).copied().unwrap_or(Fault::NoText);
        Role::Bad { index, fault }
    }

    /// The number of the file with this role.
    fn number(&self, role: Role) -> u64 {
        let place = match role {
            Role::Original(index) => index,
            Role::Near { index, .. } => self.num_originals + index,
            Role::Copy { index, .. } => self.num_originals + self.num_near + index,
            Role::Bad { index, .. } => self.num_originals + self.num_near + self.num_copies + index,
        };
        ((u128::from(place) * u128::from(self.step) + u128::from(self.offset)) % u128::from(self.num_files.max(1))) as u64
    }

    pub fn path(&self, role: Role) -> String {
        format!("{}/{:07}.xml", self.collection(role).folder(), self.number(role))
    }

    pub fn doi(&self, role: Role) -> String {
        match role {
            Role::Copy { original, same_file: true, .. } => self.doi(Role::Original(original)),
            _ => format!("10.5555/sample.{:07}", self.number(role)),
        }
    }

    pub fn collection(&self, role: Role) -> Collection {
        match role {
            Role::Original(index) => match self.kind(index) {
                Kind::CaseReport => Collection::CaseReports,
                Kind::Letter => Collection::Journals,
                Kind::Research if index >= self.num_families && index % 5 == 4 => Collection::Preprints,
                Kind::Research => Collection::Journals,
            },
            Role::Near { .. } => Collection::Preprints,
            Role::Copy { index, .. } if index % 2 == 0 => Collection::Preprints,
            Role::Copy { .. } => Collection::Journals,
            Role::Bad { index, .. } => match index % 3 {
                0 => Collection::Journals,
                1 => Collection::CaseReports,
                _ => Collection::Preprints,
            },
        }
    }

    fn kind(&self, index: u64) -> Kind {
        // Families are long enough that one edit moves the similarity by less than 0.01.
        if index < self.num_families {
            return Kind::Research;
        }
        match index % 20 {
            0..12 => Kind::Research,
            12..18 => Kind::CaseReport,
            _ => Kind::Letter,
        }
    }

    /// For each of the passages, the holder's ordinal if the original with this index holds it.
    pub fn planted(&self, index: u64) -> [Option<u64>; PASSAGES.len()] {
        let mut planted = [None; PASSAGES.len()];
        let Some(plain) = index.checked_sub(self.num_families + self.num_copies) else { return planted };
        for (passage, ordinal) in planted.iter_mut().enumerate() {
            // Each passage begins at another article, so that every mix of passages occurs.
            let shifted = plain * self.repeat_permille + 371 * passage as u64;
            let before = shifted / 1000;
            let holds = (shifted + self.repeat_permille) / 1000 > before;
            if holds && (passage == 0 || before < HOLDERS_MAX) {
                *ordinal = Some(before);
            }
        }
        planted
    }

    /// The original with this index, its passages planted.
    fn article(&self, index: u64) -> Article {
        let mut prng = Prng::new(self.seed, index);
        let mut article = Article::draw(self.kind(index), &mut prng);
        for (text, ordinal) in PASSAGES.iter().zip(self.planted(index)) {
            let Some(ordinal) = ordinal else { continue };
            if text.starts_with(' ') {
                let letter = LETTERS.get((ordinal % HOLDERS_MAX) as usize).copied().map_or('x', char::from);
                let (before, after) = (prng.between(10, 99), prng.between(10, 99));
                article.plant_sentence(format!("Samples of lot {before}{letter}{text}{letter}{after}."), &mut prng);
            } else {
                article.plant_paragraph((*text).to_string());
            }
        }
        article
    }

    /// The edited copy with this role, and its similarity with the original.
    pub fn near_copy(&self, role: Role) -> (Article, f64) {
        let Role::Near { index, original, target, revision } = role else { return (self.article(0), 1.0) };
        let mut prng = Prng::new(self.seed, self.num_originals + index);
        let (mut copy, jaccard) = self.article(original).revised(target, revision, &mut prng);
        // The earlier version has a journal and a year of its own.
        copy.journal = "Sample Preprints".to_string();
        copy.published.0 -= 1;
        (copy, jaccard)
    }

    /// The file with this role.
    pub fn bytes(&self, role: Role) -> Vec<u8> {
        let number = self.number(role);
        let doi = self.doi(role);
        let license = match number % 10 {
            0 => License::PublicDomain,
            1 | 2 => License::AttributionWords,
            _ => License::AttributionLink,
        };
        let habit = match number % 40 {
            3 => Habit::CarriageReturns,
            13 => Habit::NamedEntities,
            23 => Habit::UnboundPrefix,
            33 => Habit::Bare,
            _ => Habit::Plain,
        };
        let front = Front { doi: &doi, number, license, habit };
        match role {
            Role::Original(index) => jats::write(&self.article(index), &front).into_bytes(),
            Role::Near { .. } => jats::write(&self.near_copy(role).0, &front).into_bytes(),
            Role::Copy { original, same_file: true, .. } => self.bytes(Role::Original(original)),
            Role::Copy { original, .. } => jats::write(&self.article(original), &front).into_bytes(),
            Role::Bad { index, fault } => self.bad(index, fault, Front { habit: Habit::Plain, license: License::AttributionLink, ..front }),
        }
    }

    fn bad(&self, index: u64, fault: Fault, front: Front<'_>) -> Vec<u8> {
        let mut prng = Prng::new(self.seed, self.num_files + index);
        let mut article = Article::draw(Kind::CaseReport, &mut prng);
        let license = match fault {
            Fault::LicenseMissing => License::Missing,
            Fault::LicenseNonCommercial => License::NonCommercial,
            _ => front.license,
        };
        if fault == Fault::NoText || fault == Fault::TooShort {
            article.abstract_sections.clear();
            article.body.clear();
        }
        if fault == Fault::TooShort {
            let blocks =
                vec![super::article::Block::Paragraph(vec!["This article was withdrawn by its authors before it was reviewed.".into()])];
            article.body.push(super::article::Section { title: "Notice", blocks, sections: Vec::new() });
        }
        damage(jats::write(&article, &Front { license, ..front }), fault)
    }
}

/// Damages a good file as `fault` says.
fn damage(text: String, fault: Fault) -> Vec<u8> {
    match fault {
        Fault::Malformed => text.replacen("<body>", "<body></caption>", 1).into_bytes(),
        Fault::TooDeep => text.replacen("<body>", &format!("<body>{}{}", "<sec>".repeat(600), "</sec>".repeat(600)), 1).into_bytes(),
        Fault::EntityBomb => {
            let mut bomb = "[<!ENTITY l0 \"lol\">".to_string();
            for level in 1..30 {
                bomb.push_str(&format!("<!ENTITY l{level} \"{}\">", format!("&l{};", level - 1).repeat(10)));
            }
            text.replacen("\"JATS-archivearticle1.dtd\"", &format!("\"JATS-archivearticle1.dtd\" {bomb}]"), 1)
                .replacen("<body>", "<body><p>&l29;</p>", 1)
                .into_bytes()
        }
        Fault::Truncated => {
            let mut bytes = text.into_bytes();
            bytes.truncate(bytes.len() * 3 / 5);
            bytes
        }
        Fault::InvalidUtf8 => {
            let mut bytes = text.into_bytes();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte = 0xff;
            }
            bytes
        }
        Fault::NoText | Fault::TooShort | Fault::LicenseMissing | Fault::LicenseNonCommercial => text.into_bytes(),
    }
}

/// The family of the near copy with this index (which is the index of its original), and which member it is.
fn family(index: u64) -> (u64, usize) {
    let num_members: u64 = TARGETS.iter().map(|targets| targets.len() as u64).sum();
    let (cycle, mut left) = (index / num_members, index % num_members);
    for (pattern, targets) in TARGETS.iter().enumerate() {
        if left < targets.len() as u64 {
            return (cycle * TARGETS.len() as u64 + pattern as u64, left as usize);
        }
        left -= targets.len() as u64;
    }
    (cycle * TARGETS.len() as u64, 0)
}

/// A step with no common divisor with `modulus`, near its golden section, and the step that undoes it.
fn step(modulus: u64) -> (u64, u64) {
    let mut step = (u128::from(modulus) * 618 / 1000).max(1) as u64;
    loop {
        // Extended Euclid: `inverse * step = rest` modulo `modulus`.
        let (mut rest, mut inverse) = ((i128::from(modulus), i128::from(step)), (0_i128, 1_i128));
        while rest.1 != 0 {
            let quotient = rest.0 / rest.1;
            rest = (rest.1, rest.0 - quotient * rest.1);
            inverse = (inverse.1, inverse.0 - quotient * inverse.1);
        }
        if rest.0 == 1 || modulus < 2 {
            return (step, inverse.0.rem_euclid(i128::from(modulus.max(1))) as u64);
        }
        step += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_one_role_and_every_role_one_file() {
        for articles in [0, 1, 2, 7, 40, 400, 1_001] {
            let plan = Plan::new(&Settings { articles, ..Settings::default() });
            let mut seen = std::collections::HashSet::new();
            for number in 0..articles {
                let role = plan.role(number);
                assert_eq!(plan.number(role), number, "{articles}");
                assert!(seen.insert(format!("{role:?}")));
                if let Role::Near { original, .. } | Role::Copy { original, .. } = role {
                    assert!(original < plan.num_originals);
                }
            }
        }
    }

    #[test]
    fn wild_shares_still_make_a_plan() {
        for share in [f64::NAN, -1.0, 0.0, 1.0, f64::INFINITY] {
            let settings = Settings {
                near_duplicate_share: share,
                exact_copy_share: share,
                repeat_share: share,
                bad_record_share: share,
                articles: 60,
                ..Settings::default()
            };
            assert_eq!(super::super::generate(&settings).count(), 60);
        }
    }
}
