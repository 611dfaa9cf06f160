//! A web server of a few lines, and sources that read from it.

use crate::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// Serves fixed files on a free port until the process ends; understands HEAD, GET and one range.
pub struct Server {
    pub url: String,
}

type Files = Arc<Vec<(&'static str, Vec<u8>)>>;

impl Server {
    pub fn start(files: Vec<(&'static str, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let files = Arc::new(files);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = Arc::clone(&files);
                std::thread::spawn(move || answer(stream, &files));
            }
        });
        Self { url }
    }
}

/// Answers requests until the client hangs up. A path that starts with `/short/` breaks off half way.
fn answer(stream: TcpStream, files: &Files) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        if lines.read_line(&mut request).ok()? == 0 {
            return None;
        }
        let mut range = None;
        loop {
            let mut header = String::new();
            lines.read_line(&mut header).ok()?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                let (from, to) = value.trim().split_once('-')?;
                range = Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?));
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let Some((_, body)) = files.iter().find(|(name, _)| *name == path) else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        };
        let (status, extra, part) = match range {
            Some((from, to)) => {
                let to = (to + 1).min(body.len());
                ("206 Partial Content", format!("Content-Range: bytes {from}-{}/{}\r\n", to - 1, body.len()), &body[from..to])
            }
            None => ("200 OK", String::new(), &body[..]),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}\r\n", part.len()).ok()?;
        if method == "GET" {
            if path.starts_with("/short/") {
                stream.write_all(&part[..part.len() / 2]).ok()?;
                return None;
            }
            stream.write_all(part).ok()?;
        }
    }
}

fn here() -> Stores {
    stores(Path::new("."))
}

#[test]
fn files_come_over_http_one_by_one() {
    let long = "A long paragraph that fills buffers. ".repeat(200_000);
    let server = Server::start(vec![
        ("/d/long.txt", long.clone().into_bytes()),
        ("/d/a%20b%25.txt?key=1%2F2", b"Odd name.".to_vec()),
        ("/d/packed", zstd::encode_all(&b"Packed text."[..], 1).unwrap()),
    ]);
    let url = &server.url;
    let source = text_source(&[&format!("{url}/d/{{long.txt,packed}}"), &format!("{url}/d/a%20b%25.txt?key=1%2F2")]);
    let stores = here();
    let files = list_now(&source, &stores).unwrap();
    let found: Vec<(&str, u64)> = files.iter().map(|file| (&*file.path, file.num_bytes)).collect();
    assert_eq!(found[..2], [("a b%.txt", 9), ("long.txt", long.len() as u64)]);
    assert_eq!(found[2].0, "packed");
    let texts: Vec<String> = files
        .iter()
        .map(|file| {
            let (documents, _, summary) = read_all(&source, file, &stores);
            assert_eq!(summary.unwrap().num_bytes, file.num_bytes);
            documents[0].text.clone()
        })
        .collect();
    assert_eq!((&*texts[0], &*texts[2]), ("Odd name.", "Packed text."));
    assert_eq!(texts[1], long.trim_end());
}

#[test]
fn what_a_server_does_not_have_is_named() {
    let server = Server::start(vec![]);
    let missing = format!("{}/d/none.txt", server.url);
    let error = list_now(&text_source(&[&missing]), &here()).unwrap_err();
    assert!(matches!(&error, Error::NothingMatched { pattern, .. } if *pattern == missing), "{error}");
    let error = list_now(&text_source(&[&format!("{}/d/*.txt", server.url)]), &here()).unwrap_err();
    assert!(error.to_string().contains("each file"), "{error}");
}

#[test]
fn a_transfer_that_breaks_off_is_an_error() {
    let server = Server::start(vec![("/short/x.txt", b"Half of this never comes. ".repeat(1000))]);
    let source = text_source(&[&format!("{}/short/x.txt", server.url)]);
    let stores = here();
    let files = list_now(&source, &stores).unwrap();
    let (documents, _, summary) = read_all(&source, &files[0], &stores);
    assert!(documents.is_empty());
    let error = full(&summary.unwrap_err());
    assert!(error.contains("/short/x.txt"), "{error}");
}

#[test]
fn reading_may_stop_before_a_transfer_ends() {
    let server = Server::start(vec![("/x.jsonl", b"{\"text\": \"One of very many lines.\"}\n".repeat(1_000_000))]);
    let source = SourceConfig::new("s", Format::Jsonl, vec![format!("{}/x.jsonl", server.url)]);
    let stores = here();
    let files = list_now(&source, &stores).unwrap();
    let summary = read_file(&source, &files[0], &stores, &Limits::default(), &mut |_| ControlFlow::Break(())).unwrap();
    assert!(summary.stopped && summary.num_bytes < files[0].num_bytes, "{summary:?}");
}
