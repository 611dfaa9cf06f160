//! Globs, compression and hostile files on this machine.

use crate::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("Text of {file}.\n")).unwrap();
    }
    folder
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_folders_and_globs_are_listed_sorted_and_once() {
    let folder = folder(&["b/2.txt", "a/1.txt", "a/deep/er/3.txt", "a/4.md", "a/.hidden.txt", ".git/5.txt", "a/SOURCE.md"]);
    let stores = stores(folder.path());
    let listed = |patterns: &[&str]| paths(&text_source(patterns), &stores);
    assert_eq!(listed(&["a/1.txt"]), ["1.txt"]);
    assert_eq!(listed(&["a"]), ["1.txt", "4.md", "SOURCE.md", "deep/er/3.txt"]);
    assert_eq!(listed(&["**/*.txt"]), ["a/1.txt", "a/deep/er/3.txt", "b/2.txt"]);
    assert_eq!(listed(&["{a,b}/*.txt"]), ["a/1.txt", "b/2.txt"]);
    assert_eq!(listed(&["a/*.txt", "b/*.txt"]), ["a/1.txt", "b/2.txt"]);
    assert_eq!(listed(&["a/*.txt", "a/1.txt", "a/**/1*"]), ["1.txt"]);
    let mut source = text_source(&["a"]);
    source.exclude = vec!["SOURCE.md".into(), "deep/**".into()];
    assert_eq!(paths(&source, &stores), ["1.txt", "4.md"]);
    let absolute = format!("{}/a/*.txt", folder.path().display());
    let as_url = format!("file://{absolute}");
    assert_eq!(listed(&[&absolute]), ["1.txt"]);
    assert_eq!(listed(&[&as_url]), ["1.txt"]);
}

#[test]
fn paths_do_not_depend_on_where_the_data_lies() {
    let files = ["x/a/1.txt", "x/b/2.txt"];
    let (first, second) = (folder(&files), folder(&files));
    let source = text_source(&["x/a", "x/b"]);
    assert_eq!(paths(&source, &stores(first.path())), paths(&source, &stores(second.path())));
    assert_eq!(paths(&source, &stores(first.path())), ["a/1.txt", "b/2.txt"]);
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    let folder = folder(&["a/1.txt"]);
    let stores = stores(folder.path());
    for pattern in ["a/*.xml", "nowhere/*.txt", "nowhere", "a/1.tx"] {
        let error = list_now(&text_source(&["a/*.txt", pattern]), &stores).unwrap_err();
        assert!(matches!(&error, Error::NothingMatched { pattern: named, .. } if named == pattern), "{error}");
    }
    for pattern in ["gopher://x/y", "s3://*/y", "file://host/x", "{a"] {
        let error = list_now(&text_source(&[pattern]), &stores).unwrap_err();
        assert!(matches!(&error, Error::Setting { .. }) && error.to_string().contains(pattern), "{error}");
    }
}

#[test]
fn odd_names_are_listed_and_opened() {
    let names = ["a b.txt", "über.txt", "100%.txt", "50%20off.txt", "q?#&.txt", "[x].txt", "{a,b}.txt", "語.txt", "new\nline.txt"];
    let folder = folder(&names);
    let stores = stores(folder.path());
    let source = text_source(&["*.txt"]);
    let files = list_now(&source, &stores).unwrap();
    assert_eq!(files.len(), names.len());
    for file in &files {
        let (documents, rejects, summary) = read_all(&source, file, &stores);
        assert!(summary.is_ok() && rejects.is_empty(), "{file:?}");
        assert!(documents[0].text.starts_with("Text of"), "{file:?}");
    }
    // A name that looks like a pattern is meant literally where such a file is there.
    assert_eq!(paths(&text_source(&["{a,b}.txt"]), &stores), ["{a,b}.txt"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_loops_end() {
    let folder = folder(&["a/1.txt", "b/2.txt"]);
    std::os::unix::fs::symlink("..", folder.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink("../b", folder.path().join("a/beside")).unwrap();
    std::os::unix::fs::symlink("1.txt", folder.path().join("a/again.txt")).unwrap();
    let stores = stores(folder.path());
    assert_eq!(paths(&text_source(&["**/*.txt"]), &stores), ["a/1.txt", "a/again.txt", "b/2.txt"]);
    assert_eq!(paths(&text_source(&["a/**/2.txt"]), &stores), ["beside/2.txt"]);
    std::os::unix::fs::symlink("gone", folder.path().join("a/lost.txt")).unwrap();
    let error = full(&list_now(&text_source(&["a/*.txt"]), &stores).unwrap_err());
    assert!(error.contains("lost.txt"), "{error}");
}

#[test]
fn a_folder_is_no_file_and_opening_one_names_it() {
    let folder = folder(&["a.xml", "x.xml/inner.txt"]);
    let stores = stores(folder.path());
    let source = text_source(&["*.xml"]);
    let mut files = list_now(&source, &stores).unwrap();
    assert_eq!(files.len(), 1);
    files[0].url = files[0].url.replace("a.xml", "x.xml");
    let error = full(&read_all(&source, &files[0], &stores).2.unwrap_err());
    assert!(error.contains("x.xml"), "{error}");
}

#[test]
fn compression_is_told_by_content_and_several_members_are_one_file() {
    let folder = folder(&[]);
    let halves = ["One paragraph, somewhat long. ".repeat(3000), "Another paragraph of the text. ".repeat(3000)];
    let plain = halves.concat();
    let members = halves.map(|half| [gzip(half.as_bytes()), zstd::encode_all(half.as_bytes(), 1).unwrap()]);
    fs::write(folder.path().join("plain.txt.gz"), &plain).unwrap();
    fs::write(folder.path().join("gzip.txt"), [&members[0][0][..], &members[1][0]].concat()).unwrap();
    fs::write(folder.path().join("zstd.txt"), [&members[0][1][..], &members[1][1]].concat()).unwrap();
    let stores = stores(folder.path());
    let source = text_source(&["."]);
    let files = list_now(&source, &stores).unwrap();
    let mut texts = Vec::new();
    for file in &files {
        let (documents, rejects, summary) = read_all(&source, file, &stores);
        let stored = fs::read(folder.path().join(&file.path)).unwrap();
        let summary = summary.unwrap();
        assert_eq!(summary.num_bytes, stored.len() as u64);
        assert_eq!(summary.hash, format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&stored)));
        assert!(rejects.is_empty());
        texts.push(documents[0].text.clone());
    }
    assert_eq!(texts.len(), 3);
    assert!(texts.iter().all(|text| *text == texts[0] && text.len() + 2 >= plain.len()));
}

#[test]
fn a_truncated_or_altered_stream_is_an_error_that_names_file_and_byte() {
    let folder = folder(&[]);
    // Hard to compress, so that the cut falls far from the end of what a buffer takes.
    let mut state = 1u64;
    let mut text = String::new();
    for _ in 0..200_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(char::from(b'a' + (state >> 33) as u8 % 26));
    }
    let stores = stores(folder.path());
    for (name, whole) in [("x.gz", gzip(text.as_bytes())), ("x.zst", zstd::encode_all(text.as_bytes(), 1).unwrap())] {
        let mut altered = whole.clone();
        let middle = whole.len() / 2;
        altered[middle] ^= 0x55;
        let mut altered_check = whole.clone();
        *altered_check.iter_mut().nth_back(5).unwrap() ^= 1;
        for stored in [&whole[..middle], &whole[..whole.len() - 3], &altered[..], &whole[..6]] {
            fs::write(folder.path().join(name), stored).unwrap();
            let source = text_source(&[name]);
            let files = list_now(&source, &stores).unwrap();
            // zstd without a checksum may decode an altered block: then it is text, and no error.
            let (documents, _, summary) = read_all(&source, &files[0], &stores);
            if std::ptr::eq(stored, &altered[..]) && name == "x.zst" && summary.is_ok() {
                continue;
            }
            let error = full(&summary.unwrap_err());
            assert!(error.contains(name) && error.contains("at byte "), "{error}");
            assert!(error.len() < 600, "{error}");
            assert!(documents.is_empty());
        }
        if name == "x.gz" {
            fs::write(folder.path().join(name), &altered_check).unwrap();
            let source = text_source(&[name]);
            let files = list_now(&source, &stores).unwrap();
            assert!(read_all(&source, &files[0], &stores).2.is_err());
        }
    }
}

#[test]
fn records_before_the_break_are_given_and_the_break_is_an_error() {
    let folder = folder(&[]);
    let lines: String = (0..50_000).map(|number| format!("{{\"text\": \"Number {} of many, {}.\"}}\n", number, number * 7919)).collect();
    let whole = gzip(lines.as_bytes());
    fs::write(folder.path().join("x.jsonl.gz"), &whole[..whole.len() / 2]).unwrap();
    let stores = stores(folder.path());
    let source = SourceConfig::new("s", Format::Jsonl, vec!["x.jsonl.gz".into()]);
    let files = list_now(&source, &stores).unwrap();
    let (documents, _, summary) = read_all(&source, &files[0], &stores);
    assert!(documents.len() > 10_000, "{}", documents.len());
    assert_eq!(documents[7].record, Some(7));
    assert!(full(&summary.unwrap_err()).contains("x.jsonl.gz"));
}

#[test]
fn what_is_too_large_is_rejected_and_hashed_to_its_end() {
    let folder = folder(&[]);
    let stored = gzip(&vec![b'a'; 10 << 20]);
    fs::write(folder.path().join("bomb.txt"), &stored).unwrap();
    let stores = stores(folder.path());
    let source = text_source(&["bomb.txt"]);
    let files = list_now(&source, &stores).unwrap();
    let limits = Limits { record_bytes_max: 1 << 20, ..Limits::default() };
    let (documents, rejects, summary) = read_within(&source, &files[0], &stores, &limits);
    assert!(documents.is_empty());
    assert_eq!((rejects.len(), rejects[0].reason), (1, "record-too-large"));
    assert_eq!(summary.unwrap().hash, format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&stored)));
}

#[test]
fn whoever_breaks_off_gets_no_more() {
    let folder = folder(&[]);
    let lines: String = (0..1000).map(|number| format!("{{\"text\": \"Line {number}.\"}}\n")).collect();
    fs::write(folder.path().join("x.jsonl"), lines).unwrap();
    let stores = stores(folder.path());
    let source = SourceConfig::new("s", Format::Jsonl, vec!["x.jsonl".into()]);
    let file = list_now(&source, &stores).unwrap().remove(0);
    let mut taken = 0;
    let summary = read_file(&source, &file, &stores, &Limits::default(), &mut |_| {
        taken += 1;
        if taken == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(taken, 3);
    assert!(summary.unwrap().stopped);
}

#[test]
fn a_file_of_another_format_is_a_reject() {
    let folder = folder(&["README.md"]);
    let stores = stores(folder.path());
    let formats = [Format::Jats, Format::Bmc, Format::Pubmed, Format::Cnxml, Format::Medquad, Format::Wikipedia, Format::Textgrid];
    for format in formats.into_iter().chain([Format::Jsonl, Format::Json, Format::Parquet]) {
        // Line by line, each line is a record that is none.
        let is_by_line = matches!(format, Format::Jsonl | Format::Json);
        let source = SourceConfig::new("s", format, vec!["README.md".into()]);
        let file = list_now(&source, &stores).unwrap().remove(0);
        let (documents, rejects, summary) = read_all(&source, &file, &stores);
        assert!(summary.is_ok(), "{format:?}: {}", full(&summary.unwrap_err()));
        assert!(documents.is_empty() && !rejects.is_empty(), "{format:?}");
        assert!(rejects.len() == 1 || is_by_line, "{format:?}: {rejects:?}");
    }
}

#[test]
fn two_files_with_one_path_are_refused() {
    let folder = folder(&["b/1.txt"]);
    let server = crate::http::Server::start(vec![("/b/1.txt", b"Text.".to_vec())]);
    let source = text_source(&["b/*.txt", &format!("{}/b/1.txt", server.url)]);
    let error = list_now(&source, &stores(folder.path())).unwrap_err();
    assert!(matches!(error, Error::Collision { .. }), "{error}");
}
