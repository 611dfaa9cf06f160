//! Sources in S3, against the `moto` server where it is installed.

use crate::*;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Moto {
    process: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    /// `None`, loudly, where there is no moto.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let is_installed =
            Command::new("python3").args(["-c", "import moto.server"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !is_installed {
            eprintln!("SKIPPED: the S3 tests need the Python package `moto` with its server");
            return None;
        }
        let port_text = port.to_string();
        let arguments = ["-m", "moto.server", "-H", "127.0.0.1", "-p", &port_text];
        let process = Command::new("python3").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { process, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(120), "moto does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    fn storage(&self) -> StorageConfig {
        let environment = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_DEFAULT_REGION", "us-east-1")];
        StorageConfig {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            allow_http: true,
            environment: environment.map(|(name, value)| (name.to_string(), value.to_string())).into(),
            ..StorageConfig::default()
        }
    }
}

/// Puts objects into a new bucket.
fn put(storage: &StorageConfig, objects: &[(&str, Vec<u8>)]) {
    use object_store::ObjectStoreExt;
    let endpoint = storage.endpoint.clone().unwrap();
    RUNTIME.block_on(async {
        let store = object_store::aws::AmazonS3Builder::new()
            .with_bucket_name("bucket")
            .with_endpoint(&endpoint)
            .with_region("us-east-1")
            .with_access_key_id("key")
            .with_secret_access_key("secret")
            .with_allow_http(true)
            .build()
            .unwrap();
        for (key, bytes) in objects {
            store.put(&object_store::path::Path::parse(key).unwrap(), bytes.clone().into()).await.unwrap();
        }
    });
}

fn make_bucket(port: u16) {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = "PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: AWS4-HMAC-SHA256 Credential=key/20200101/us-east-1/s3/aws4_request\r\n\
                   Content-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn parquet_bytes() -> Vec<u8> {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    let text: ArrayRef = std::sync::Arc::new(StringArray::from_iter_values((0..1000).map(|number| format!("Row {number}."))));
    let batch = RecordBatch::try_from_iter([("text", text)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn objects_are_listed_and_read() {
    let Some(server) = Moto::start() else { return };
    make_bucket(server.port);
    let storage = server.storage();
    let packed = zstd::encode_all(&b"Packed text."[..], 1).unwrap();
    put(
        &storage,
        &[
            ("data/a/1.txt", b"One.".to_vec()),
            ("data/a/an odd + name %20 \u{fc}.txt", b"Two.".to_vec()),
            ("data/b/3.txt.zst", packed.clone()),
            ("data/b/.hidden.txt", b"No.".to_vec()),
            ("data/b", Vec::new()),
            ("database/4.txt", b"No.".to_vec()),
            ("rows.parquet", parquet_bytes()),
        ],
    );
    let stores = Stores::new(".", storage, RUNTIME.handle().clone());
    let source = text_source(&["s3://bucket/data"]);
    let files = list_now(&source, &stores).unwrap();
    let found: Vec<&str> = files.iter().map(|file| &*file.path).collect();
    assert_eq!(found, ["a/1.txt", "a/an odd + name %20 \u{fc}.txt", "b/3.txt.zst"]);
    let texts: Vec<String> = files.iter().map(|file| read_all(&source, file, &stores).0.remove(0).text).collect();
    assert_eq!(texts, ["One.", "Two.", "Packed text."]);
    let (_, _, summary) = read_all(&source, &files[2], &stores);
    assert_eq!(summary.unwrap().hash, format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&packed)));
    assert_eq!(paths(&text_source(&["s3://bucket/data/a/1.txt"]), &stores), ["1.txt"]);
    assert_eq!(paths(&text_source(&["s3://bucket/data/*/*.txt"]), &stores).len(), 2);
    assert_eq!(paths(&text_source(&["s3://bucket/data*/**/*.txt"]), &stores).len(), 3);
    for pattern in ["s3://bucket/data/*.xml", "s3://bucket/none/x.txt"] {
        let error = list_now(&text_source(&[pattern]), &stores).unwrap_err();
        assert!(matches!(error, Error::NothingMatched { .. }), "{error}");
    }
    let error = full(&list_now(&text_source(&["s3://other/*.txt"]), &stores).unwrap_err());
    assert!(error.contains("s3://other/*.txt"), "{error}");

    let rows = SourceConfig::new("s", Format::Parquet, vec!["s3://bucket/rows.parquet".into()]);
    let file = list_now(&rows, &stores).unwrap().remove(0);
    let (documents, rejects, summary) = read_all(&rows, &file, &stores);
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!((documents.len(), &*documents[999].text), (1000, "Row 999."));
    assert_eq!(summary.unwrap().num_bytes, file.num_bytes);
}

#[test]
fn secrets_stay_secret() {
    let storage: StorageConfig =
        toml::from_str("access_key_id = 'hidden-key'\nsecret_access_key = 'hidden-secret'\nregion = 'eu-west-1'").unwrap();
    let shown = format!("{storage:?} {}", toml::to_string(&storage).unwrap());
    assert!(shown.contains("eu-west-1") && !shown.contains("hidden"), "{shown}");
    assert!(toml::from_str::<StorageConfig>("regoin = 'x'").is_err());
}
