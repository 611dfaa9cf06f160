//! Clusters: which document stands for which, from exact copies and decided pairs.

use super::{Clustering, KeeperRule, NearDuplicatesConfig, STAGE};
use crate::operator::Error;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use osler_schemas::cluster::schema;
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

/// How far below the threshold a member may be from its keeper before its cluster is counted in [`Statistics::num_weak_clusters`].
pub const ALARM_MARGIN: f64 = 0.1;

/// What the choice of a keeper looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentFacts {
    /// Number of the document within the run.
    pub ordinal: u64,
    pub num_bytes: u64,
    /// Place of the document's source in the recipe.
    pub source_index: u32,
    /// Hash of the text alone: equal for exact copies.
    pub content_hash: u128,
    pub doc_id: u128,
}

/// One row of [`osler_schemas::cluster::schema`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterRow {
    pub ordinal: u64,
    pub keeper: u64,
    pub partner: u64,
    pub jaccard: f64,
    pub reason: Reason,
}

/// Why a document belongs to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    ExactCopy,
    NearDuplicate,
}

impl Reason {
    /// The reason as tables and the ledger spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExactCopy => "exact-copy",
            Self::NearDuplicate => "near-duplicate",
        }
    }
}

/// Clusters of two or more documents, and what a user should know of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clusters {
    /// One row per member, in order of ordinals.
    pub rows: Vec<ClusterRow>,
    pub statistics: Statistics,
}

/// Sizes and strength of the clusters.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Statistics {
    pub num_clusters: u64,
    /// Members of the largest cluster.
    pub largest: u64,
    pub num_exact_copies: u64,
    pub num_near_duplicates: u64,
    /// Smallest similarity of a near-duplicate and its keeper, where the two were compared.
    pub weakest_jaccard: Option<f64>,
    /// Near-duplicates that were not compared with their keeper, but with another member.
    pub num_uncompared: u64,
    /// Clusters with a member more than [`ALARM_MARGIN`] below the threshold from its keeper: signs of a hub that chains strangers.
    pub num_weak_clusters: u64,
}

impl Statistics {
    /// The alarm, if there is cause.
    pub fn alarm(&self, config: &NearDuplicatesConfig) -> Option<String> {
        (self.num_weak_clusters > 0).then(|| {
            format!(
                "{} of {} clusters of near-duplicates have a member whose similarity to the keeper lies more than {ALARM_MARGIN} below \
                 the threshold {} (weakest: {:.3}); cluster = \"star\" keeps such members apart",
                self.num_weak_clusters,
                self.num_clusters,
                config.threshold,
                self.weakest_jaccard.unwrap_or_default()
            )
        })
    }
}

/// The documents that stand for their exact copies, by ascending ordinal: those that need a sketch.
pub fn representatives(documents: &[DocumentFacts], config: &NearDuplicatesConfig) -> Vec<u64> {
    let order = keeper_order(documents, config);
    let copies = exact_copies(documents, &order);
    let mut ordinals: Vec<u64> = order
        .iter()
        .zip(&copies)
        .enumerate()
        .filter(|(rank, (_, first))| **first == *rank)
        .map(|(_, (at, _))| documents[*at].ordinal)
        .collect();
    ordinals.sort_unstable();
    ordinals
}

/// Clusters the documents. `pairs` are compared pairs of ordinals with their similarity, in any order: those at the threshold or above
/// join documents, the others only tell how far a member is from its keeper.
///
/// # Errors
/// [`Error::Data`] when two documents have one ordinal, or a pair names a document that is not there.
pub fn clusters(documents: &[DocumentFacts], pairs: &[(u64, u64, f64)], config: &NearDuplicatesConfig) -> Result<Clusters, Error> {
    Ok(Found::new(documents, pairs, config)?.tabulate(config))
}

/// Order of preference: the first document is the best keeper.
fn prefer(a: &DocumentFacts, b: &DocumentFacts, rules: &[KeeperRule]) -> Ordering {
    let by_rules = rules.iter().fold(Ordering::Equal, |order, rule| {
        order.then_with(|| match rule {
            KeeperRule::LongestText => b.num_bytes.cmp(&a.num_bytes),
            KeeperRule::SourceOrder => a.source_index.cmp(&b.source_index),
            KeeperRule::SmallestId => a.doc_id.cmp(&b.doc_id),
        })
    });
    by_rules.then(a.doc_id.cmp(&b.doc_id)).then(a.ordinal.cmp(&b.ordinal))
}

/// Places of the documents, best keeper first. A document's place in this order is its rank; everything below works on ranks.
fn keeper_order(documents: &[DocumentFacts], config: &NearDuplicatesConfig) -> Vec<usize> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_unstable_by(|a, b| prefer(&documents[*a], &documents[*b], &config.keeper));
    order
}

/// For each rank, the lowest rank with the same content.
fn exact_copies(documents: &[DocumentFacts], order: &[usize]) -> Vec<usize> {
    let mut by_content: Vec<usize> = (0..order.len()).collect();
    let content = |rank: usize| documents[order[rank]].content_hash;
    by_content.sort_unstable_by_key(|rank| (content(*rank), *rank));
    let mut first_copy = vec![0; order.len()];
    for group in by_content.chunk_by(|a, b| content(*a) == content(*b)) {
        group.iter().for_each(|rank| first_copy[*rank] = group[0]);
    }
    first_copy
}

/// The pairs by rank, each document replaced by the one that stands for its exact copies; sorted, so that the order given does not matter.
fn ranked(
    documents: &[DocumentFacts],
    order: &[usize],
    first_copy: &[usize],
    pairs: &[(u64, u64, f64)],
) -> Result<Vec<(usize, usize, f64)>, Error> {
    let mut ranks: Vec<(u64, usize)> = order.iter().enumerate().map(|(rank, at)| (documents[*at].ordinal, rank)).collect();
    ranks.sort_unstable();
    if let Some(twice) = ranks.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::Data { operator: STAGE, problem: format!("two documents have the ordinal {}", twice[0].0) });
    }
    let rank = |ordinal: u64| match ranks.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal) {
        Ok(place) => Ok(first_copy[ranks[place].1]),
        Err(_) => Err(Error::Data { operator: STAGE, problem: format!("a pair names document {ordinal}, which is not there") }),
    };
    let mut ranked = Vec::with_capacity(pairs.len());
    for (left, right, jaccard) in pairs {
        let (left, right) = (rank(*left)?, rank(*right)?);
        if left != right {
            ranked.push((left.min(right), left.max(right), *jaccard));
        }
    }
    ranked.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.total_cmp(&a.2)));
    ranked.dedup_by_key(|pair| (pair.0, pair.1));
    Ok(ranked)
}

/// Each rank's keeper: the lowest rank of its connected component. Union-find in which the lower rank is always the root.
fn connected<'a>(num_documents: usize, decided: impl Iterator<Item = &'a (usize, usize, f64)>, first_copy: &[usize]) -> Vec<usize> {
    fn root(parents: &mut [usize], mut rank: usize) -> usize {
        while parents[rank] != rank {
            parents[rank] = parents[parents[rank]];
            rank = parents[rank];
        }
        rank
    }
    let mut parents = first_copy.to_vec();
    for (left, right, _) in decided {
        let (left, right) = (root(&mut parents, *left), root(&mut parents, *right));
        parents[left.max(right)] = left.min(right);
    }
    (0..num_documents).map(|rank| root(&mut parents, rank)).collect()
}

/// Each rank's keeper: in order of rank, a document that has none yet becomes a keeper and takes its neighbours that have none.
fn stars<'a>(num_documents: usize, decided: impl Iterator<Item = &'a (usize, usize, f64)>, first_copy: &[usize]) -> Vec<usize> {
    let mut keepers: Vec<usize> = (0..num_documents).collect();
    let mut taken = vec![false; num_documents];
    // The pairs come sorted by their lower rank, and by then it is settled whether that one is a keeper.
    for (left, right, _) in decided {
        if !taken[*left] && !taken[*right] {
            keepers[*right] = *left;
            taken[*right] = true;
        }
    }
    (0..num_documents).map(|rank| keepers[first_copy[rank]]).collect()
}

/// For each rank, the member its similarity is told of: the keeper where the two were compared, else the most similar member.
fn nearest(pairs: &[(usize, usize, f64)], keeper: &[usize]) -> Vec<Option<(usize, f64)>> {
    let mut nearest: Vec<Option<(usize, f64)>> = vec![None; keeper.len()];
    for (left, right, jaccard) in pairs.iter().filter(|pair| keeper[pair.0] == keeper[pair.1]) {
        for (member, other) in [(*left, *right), (*right, *left)] {
            // Larger is better: the keeper, then the similarity, then the lower rank.
            let merit = |other: usize, jaccard: f64| (other == keeper[member], jaccard, Reverse(other));
            let better = match nearest[member] {
                Some((held, held_jaccard)) => merit(other, *jaccard).partial_cmp(&merit(held, held_jaccard)) == Some(Ordering::Greater),
                None => true,
            };
            if better {
                nearest[member] = Some((other, *jaccard));
            }
        }
    }
    nearest
}

/// Bytes of memory that clustering takes for a document, its [`DocumentFacts`] included, while it works.
pub const DOCUMENT_BYTES: usize = size_of::<DocumentFacts>() + 10 * size_of::<u64>();

/// Who stands for whom, before it is told in rows: all by rank.
#[derive(Debug)]
pub struct Found {
    ordinals: Vec<u64>,
    first_copy: Vec<usize>,
    keeper: Vec<usize>,
    nearest: Vec<Option<(usize, f64)>>,
}

impl Found {
    /// As for [`clusters`].
    ///
    /// # Errors
    /// As for [`clusters`].
    pub fn new(documents: &[DocumentFacts], pairs: &[(u64, u64, f64)], config: &NearDuplicatesConfig) -> Result<Self, Error> {
        let order = keeper_order(documents, config);
        let first_copy = exact_copies(documents, &order);
        let pairs = ranked(documents, &order, &first_copy, pairs)?;
        let decided = pairs.iter().filter(|pair| pair.2 >= config.threshold);
        let keeper = match config.cluster {
            Clustering::Connected => connected(documents.len(), decided, &first_copy),
            Clustering::Star => stars(documents.len(), decided, &first_copy),
        };
        let nearest = nearest(&pairs, &keeper);
        let ordinals = order.iter().map(|at| documents[*at].ordinal).collect();
        Ok(Self { ordinals, first_copy, keeper, nearest })
    }

    /// Pairs of a near-duplicate and its keeper that were not compared, sorted, the lower ordinal first.
    pub fn uncompared(&self) -> Vec<(u64, u64)> {
        let mut uncompared: Vec<(u64, u64)> = self.strangers().map(|(_, _, pair)| pair).collect();
        uncompared.sort_unstable();
        uncompared
    }

    /// Takes what a comparison of [`Found::uncompared`] gave, in its order. No cluster changes, but every member's row tells of its keeper.
    pub fn tell(&mut self, compared: &[(u64, u64, f64)]) {
        let known = |pair| compared.binary_search_by_key(&pair, |(left, right, _)| (*left, *right)).ok();
        let told: Vec<(usize, usize, f64)> =
            self.strangers().filter_map(|(rank, keeper, pair)| Some((rank, keeper, compared[known(pair)?].2))).collect();
        for (rank, keeper, jaccard) in told {
            self.nearest[rank] = Some((keeper, jaccard));
        }
    }

    /// Near-duplicates that were not compared with their keeper: both ranks, and both ordinals, the lower first.
    fn strangers(&self) -> impl Iterator<Item = (usize, usize, (u64, u64))> {
        let members = self.keeper.iter().enumerate().filter(|(rank, keeper)| self.first_copy[*rank] == *rank && **keeper != *rank);
        let strangers = members.filter(|(rank, keeper)| self.nearest[*rank].is_none_or(|(other, _)| other != **keeper));
        strangers.map(|(rank, keeper)| {
            let (member, other) = (self.ordinals[rank], self.ordinals[*keeper]);
            (rank, *keeper, (member.min(other), member.max(other)))
        })
    }

    /// Rows and statistics.
    pub fn tabulate(&self, config: &NearDuplicatesConfig) -> Clusters {
        let num_documents = self.ordinals.len();
        let mut sizes = vec![0_u64; num_documents];
        let mut weak = vec![false; num_documents];
        let mut near = vec![false; num_documents];
        for (rank, keeper) in self.keeper.iter().enumerate() {
            sizes[*keeper] += 1;
            near[*keeper] |= self.first_copy[rank] == rank && *keeper != rank;
        }
        let mut clusters = Clusters::default();
        let statistics = &mut clusters.statistics;
        for (rank, keeper) in self.keeper.iter().enumerate().filter(|(_, keeper)| sizes[**keeper] > 1) {
            let row = if rank == *keeper {
                statistics.num_clusters += 1;
                statistics.largest = statistics.largest.max(sizes[rank]);
                (rank, 1.0, if near[rank] { Reason::NearDuplicate } else { Reason::ExactCopy })
            } else if self.first_copy[rank] != rank {
                statistics.num_exact_copies += 1;
                (self.first_copy[rank], 1.0, Reason::ExactCopy)
            } else {
                statistics.num_near_duplicates += 1;
                // A member joins by a decided pair, so it has a nearest one.
                let (partner, jaccard) = self.nearest[rank].unwrap_or((*keeper, 0.0));
                if partner == *keeper {
                    statistics.weakest_jaccard = Some(statistics.weakest_jaccard.map_or(jaccard, |weakest| weakest.min(jaccard)));
                    weak[*keeper] |= jaccard < config.threshold - ALARM_MARGIN;
                } else {
                    statistics.num_uncompared += 1;
                }
                (partner, jaccard, Reason::NearDuplicate)
            };
            let ordinal = |rank: usize| self.ordinals[rank];
            let (ordinal, keeper, partner) = (ordinal(rank), ordinal(*keeper), ordinal(row.0));
            clusters.rows.push(ClusterRow { ordinal, keeper, partner, jaccard: row.1, reason: row.2 });
        }
        statistics.num_weak_clusters = weak.iter().filter(|weak| **weak).count() as u64;
        clusters.rows.sort_unstable_by_key(|row| row.ordinal);
        clusters
    }
}

/// The rows as a batch of [`osler_schemas::cluster::schema`].
///
/// # Errors
/// [`Error::Arrow`] if the batch cannot be built.
pub fn to_batch(rows: &[ClusterRow]) -> Result<RecordBatch, Error> {
    let ordinals = |of: fn(&ClusterRow) -> u64| Arc::new(UInt64Array::from_iter_values(rows.iter().map(of))) as ArrayRef;
    let columns = vec![
        ordinals(|row| row.ordinal),
        ordinals(|row| row.keeper),
        ordinals(|row| row.partner),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.jaccard))) as ArrayRef,
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.reason.as_str()))) as ArrayRef,
    ];
    RecordBatch::try_new(schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A document whose text is its own.
    fn document(ordinal: u64, num_bytes: u64) -> DocumentFacts {
        DocumentFacts { ordinal, num_bytes, source_index: 0, content_hash: u128::from(ordinal), doc_id: u128::from(ordinal) + 100 }
    }

    fn star() -> NearDuplicatesConfig {
        NearDuplicatesConfig { cluster: Clustering::Star, ..NearDuplicatesConfig::default() }
    }

    /// Ordinal, keeper, partner, similarity in hundredths.
    fn short(clusters: &Clusters) -> Vec<(u64, u64, u64, u64)> {
        clusters.rows.iter().map(|row| (row.ordinal, row.keeper, row.partner, (row.jaccard * 100.0).round() as u64)).collect()
    }

    #[test]
    fn the_keeper_follows_the_rules_in_order() {
        use KeeperRule::{LongestText, SmallestId, SourceOrder};
        // Ordinal, bytes, source, id.
        let documents = [(0, 10, 1, 5_u128), (1, 30, 2, 4), (2, 30, 1, 9), (3, 30, 1, 8), (4, 20, 0, 7)].map(
            |(ordinal, num_bytes, source_index, doc_id)| DocumentFacts {
                ordinal,
                num_bytes,
                source_index,
                content_hash: u128::from(ordinal),
                doc_id,
            },
        );
        let pairs = [(0, 1, 0.9), (1, 2, 0.9), (2, 3, 0.9), (3, 4, 0.9)];
        for (rules, wanted) in [
            (vec![LongestText, SourceOrder, SmallestId], 3),
            (vec![LongestText, SmallestId], 1),
            (vec![SourceOrder], 4),
            (vec![], 1),
            (vec![SmallestId, LongestText], 1),
        ] {
            let config = NearDuplicatesConfig { keeper: rules, ..NearDuplicatesConfig::default() };
            let found = clusters(&documents, &pairs, &config).unwrap();
            assert!(found.rows.iter().all(|row| row.keeper == wanted), "{:?}: {:?}", config.keeper, found.rows);
            assert_eq!(found.rows.len(), 5);
        }
    }

    #[test]
    fn a_hub_chains_strangers_only_when_connected() {
        // 1 lies between 0 and 2, which are strangers; 0 is the longest.
        let documents = [document(0, 30), document(1, 10), document(2, 20), document(3, 5)];
        let pairs = [(0, 1, 0.9), (1, 2, 0.86), (0, 2, 0.6)];
        let found = clusters(&documents, &pairs, &NearDuplicatesConfig::default()).unwrap();
        assert_eq!(short(&found), [(0, 0, 0, 100), (1, 0, 0, 90), (2, 0, 0, 60)]);
        assert_eq!(found.statistics.num_weak_clusters, 1);
        assert_eq!(found.statistics.weakest_jaccard, Some(0.6));
        assert!(found.statistics.alarm(&NearDuplicatesConfig::default()).unwrap().contains("weakest: 0.600"));

        // Without the comparison the row tells of the neighbour, and a later comparison tells of the keeper.
        let config = NearDuplicatesConfig::default();
        let found = clusters(&documents, &pairs[..2], &config).unwrap();
        assert_eq!(short(&found), [(0, 0, 0, 100), (1, 0, 0, 90), (2, 0, 1, 86)]);
        assert_eq!((found.statistics.num_weak_clusters, found.statistics.num_uncompared), (0, 1));
        let mut known = Found::new(&documents, &pairs[..2], &config).unwrap();
        assert_eq!(known.uncompared(), [(0, 2)]);
        known.tell(&[(0, 2, 0.6)]);
        assert_eq!(known.uncompared(), []);
        assert_eq!(known.tabulate(&config), clusters(&documents, &pairs, &config).unwrap());

        let found = clusters(&documents, &pairs, &star()).unwrap();
        assert_eq!(short(&found), [(0, 0, 0, 100), (1, 0, 0, 90)]);
        assert_eq!(found.statistics.alarm(&star()), None);
    }

    #[test]
    fn exact_copies_collapse_and_follow_their_copy() {
        // 1 and 2 are copies of each other, and near 0; 3 and 4 are copies alone; 5 is alone.
        let mut documents = [document(0, 30), document(1, 20), document(2, 20), document(3, 9), document(4, 9), document(5, 9)];
        documents[2].content_hash = documents[1].content_hash;
        documents[4].content_hash = documents[3].content_hash;
        let config = NearDuplicatesConfig::default();
        assert_eq!(representatives(&documents, &config), [0, 1, 3, 5]);
        for config in [config, star()] {
            let found = clusters(&documents, &[(0, 1, 0.9)], &config).unwrap();
            assert_eq!(short(&found), [(0, 0, 0, 100), (1, 0, 0, 90), (2, 0, 1, 100), (3, 3, 3, 100), (4, 3, 3, 100)]);
            let reasons: Vec<&str> = found.rows.iter().map(|row| row.reason.as_str()).collect();
            assert_eq!(reasons, ["near-duplicate", "near-duplicate", "exact-copy", "exact-copy", "exact-copy"]);
            let statistics = found.statistics;
            assert_eq!((statistics.num_clusters, statistics.largest), (2, 3));
            assert_eq!((statistics.num_exact_copies, statistics.num_near_duplicates), (2, 1));
            let batch = to_batch(&found.rows).unwrap();
            assert_eq!((batch.num_rows(), batch.schema()), (5, schema()));
        }
    }

    #[test]
    fn wrong_input_is_refused() {
        let config = NearDuplicatesConfig::default();
        assert_eq!(clusters(&[], &[], &config).unwrap(), Clusters::default());
        let twice = clusters(&[document(7, 1), document(7, 2)], &[], &config).unwrap_err().to_string();
        assert!(twice.contains("ordinal 7"), "{twice}");
        let unknown = clusters(&[document(u64::MAX, 1)], &[(u64::MAX, 3, 1.0)], &config).unwrap_err().to_string();
        assert!(unknown.contains("document 3"), "{unknown}");
    }

    type Graph = (Vec<DocumentFacts>, Vec<(u64, u64, f64)>);

    fn graph() -> impl Strategy<Value = Graph> {
        let documents = prop::collection::vec((0_u64..4, 0_u32..3, 0_u128..12), 1..16);
        let pairs = prop::collection::btree_map((0_usize..16, 0_usize..16), 70_u32..100, 0..24);
        (documents, pairs).prop_map(|(documents, pairs)| {
            let documents: Vec<DocumentFacts> = (0..)
                .zip(documents)
                .map(|(ordinal, (num_bytes, source_index, content_hash))| {
                    // Copies are equal in length; ids are scattered.
                    let doc_id = u128::from(super::super::mix(ordinal));
                    DocumentFacts { ordinal: ordinal * 3, num_bytes: num_bytes + content_hash as u64, source_index, content_hash, doc_id }
                })
                .collect();
            let known = |place: usize| documents.get(place).map(|document| document.ordinal);
            let pairs = pairs
                .into_iter()
                .filter_map(|((a, b), jaccard)| Some((known(a)?, known(b)?, f64::from(jaccard) / 100.0)))
                .filter(|pair| pair.0 < pair.1)
                .collect();
            (documents, pairs)
        })
    }

    proptest! {
        #[test]
        fn connected_clusters_are_components((documents, pairs) in graph()) {
            let config = NearDuplicatesConfig::default();
            let found = clusters(&documents, &pairs, &config).unwrap();
            // Components by spreading the smallest label until nothing changes.
            let mut label: BTreeMap<u64, u64> = documents.iter().map(|document| (document.ordinal, document.ordinal)).collect();
            loop {
                let before = label.clone();
                let mut join = |a: u64, b: u64| {
                    let low = label[&a].min(label[&b]);
                    label.insert(a, low);
                    label.insert(b, low);
                };
                pairs.iter().filter(|pair| pair.2 >= config.threshold).for_each(|pair| join(pair.0, pair.1));
                for a in &documents {
                    documents.iter().filter(|b| b.content_hash == a.content_hash).for_each(|b| join(a.ordinal, b.ordinal));
                }
                if label == before {
                    break;
                }
            }
            let mut components: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            label.iter().for_each(|(ordinal, label)| { components.entry(*label).or_default().insert(*ordinal); });
            let wanted: BTreeSet<BTreeSet<u64>> = components.into_values().filter(|members| members.len() > 1).collect();
            let mut by_keeper: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            found.rows.iter().for_each(|row| { by_keeper.entry(row.keeper).or_default().insert(row.ordinal); });
            prop_assert!(by_keeper.iter().all(|(keeper, members)| members.contains(keeper)));
            prop_assert_eq!(by_keeper.into_values().collect::<BTreeSet<_>>(), wanted);
        }

        #[test]
        fn order_does_not_matter_and_partners_are_compared((documents, pairs) in graph(), turn in 0_usize..20, star_mode: bool) {
            let config = if star_mode { star() } else { NearDuplicatesConfig::default() };
            let found = clusters(&documents, &pairs, &config).unwrap();
            let (mut turned_documents, mut turned_pairs) = (documents.clone(), pairs.clone());
            turned_documents.rotate_left(turn % documents.len());
            turned_pairs.reverse();
            turned_pairs.rotate_left(turn % pairs.len().max(1));
            prop_assert_eq!(&clusters(&turned_documents, &turned_pairs, &config).unwrap(), &found);

            let content: BTreeMap<u64, u128> = documents.iter().map(|document| (document.ordinal, document.content_hash)).collect();
            for row in found.rows.iter().filter(|row| row.ordinal != row.keeper) {
                match row.reason {
                    Reason::ExactCopy => prop_assert_eq!(content[&row.ordinal], content[&row.partner]),
                    Reason::NearDuplicate => {
                        // Pairs may name any copy of the two.
                        let same = |a: u64, b: u64| content[&a] == content[&b];
                        let compared = pairs.iter().any(|(a, b, jaccard)| {
                            *jaccard == row.jaccard
                                && (same(*a, row.ordinal) && same(*b, row.partner) || same(*b, row.ordinal) && same(*a, row.partner))
                        });
                        prop_assert!(compared, "{:?}", row);
                        prop_assert!(!star_mode || (row.partner == row.keeper && row.jaccard >= config.threshold));
                    }
                }
            }
        }
    }
}
