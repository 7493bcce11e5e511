use super::*;

#[test]
fn paths_that_exist_are_used_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let hub = Hub { offline: true, ..Hub::default() };
    let error = hub.model(path, None, Weights::Skip).unwrap_err();
    assert_eq!(error.to_string(), format!("`{path}` has no `config.json`"));
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_eq!(hub.model(path, None, Weights::Skip).unwrap(), folder.path());
    let error = hub.model(path, None, Weights::Fetch).unwrap_err().to_string();
    assert!(error.contains("only safetensors is read"), "{error}");

    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    std::fs::write(folder.path().join("model-00001-of-00002.safetensors"), "").unwrap();
    let error = hub.model(path, None, Weights::Fetch).unwrap_err().to_string();
    assert!(error.contains("has no shard `model-00002-of-00002.safetensors`, which its index names"), "{error}");
    std::fs::write(folder.path().join("model-00002-of-00002.safetensors"), "").unwrap();
    hub.model(path, None, Weights::Fetch).unwrap();
    std::fs::write(folder.path().join("model.safetensors.index.json"), "{").unwrap();
    let error = hub.model(path, None, Weights::Fetch).unwrap_err().to_string();
    assert!(error.contains("readable `model.safetensors.index.json`"), "{error}");
}

#[test]
fn what_is_neither_path_nor_name_is_refused() {
    let hub = Hub { offline: true, ..Hub::default() };
    for path in ["gone", "./gone", "a/b/c", "../x", "/no/such/folder", "owner/na me", ""] {
        let error = hub.model(path, None, Weights::Skip).unwrap_err();
        assert!(matches!(error, HubError::NoSuchPath { .. }), "{path}: {error}");
    }
}

#[test]
fn offline_is_read_as_python_reads_it() {
    for (value, expected) in
        [(None, false), (Some("0"), false), (Some("1"), true), (Some("ON"), true), (Some("yes"), true)]
    {
        assert_eq!(says_yes(value), expected, "{value:?}");
    }
}

#[test]
fn splits_are_found_in_the_usual_layouts() {
    let files = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let gsm8k = files(&[
        "README.md",
        "main/test-00000-of-00001.parquet",
        "main/train-00000-of-00001.parquet",
        "socratic/test-00000-of-00001.parquet",
        "socratic/train-00000-of-00001.parquet",
    ]);
    let chosen = |files: &[String], configuration, split| choose_split("o/n", files, configuration, split);
    if cfg!(feature = "parquet") {
        assert_eq!(chosen(&gsm8k, Some("main"), "train").unwrap(), ["main/train-00000-of-00001.parquet"]);
        let error = chosen(&gsm8k, None, "train").unwrap_err().to_string();
        assert_eq!(error, "`o/n` needs a configuration, one of: main, socratic");
        let parts =
            files(&["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "data/train.jsonl"]);
        assert_eq!(chosen(&parts, None, "train").unwrap(), parts[..2].iter().rev().cloned().collect::<Vec<_>>());
        let exported = files(&["default/train/0000.parquet", "default/test/0000.parquet"]);
        assert_eq!(chosen(&exported, Some("default"), "test").unwrap(), ["default/test/0000.parquet"]);
    }
    let lines = files(&["test.jsonl", "train_prefs.jsonl"]);
    assert_eq!(chosen(&lines, None, "test").unwrap(), ["test.jsonl"]);
    assert_eq!(chosen(&lines, None, "train_prefs").unwrap(), ["train_prefs.jsonl"]);
    let named = files(&["gsm8k_test.jsonl", "gsm8k_train.jsonl"]);
    assert_eq!(chosen(&named, None, "train").unwrap(), ["gsm8k_train.jsonl"]);
    let both = files(&["train.jsonl", "x_train.jsonl"]);
    assert_eq!(chosen(&both, None, "train").unwrap(), ["train.jsonl"]);
    let error = chosen(&lines, None, "validation").unwrap_err().to_string();
    assert_eq!(error, "`o/n` has no files of split `validation`; it holds test.jsonl, train_prefs.jsonl");
    // A configuration's name is not a split.
    let named = files(&["train_set/test.jsonl"]);
    assert!(chosen(&named, Some("train_set"), "train").is_err());
}

/// The Hub as hf-hub speaks to it, on a loopback port: listing, revision, HEAD and GET of files.
#[cfg(feature = "hub")]
mod loopback {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[derive(Clone, Default)]
    struct Site {
        /// Path within the repository, content.
        files: Vec<(&'static str, Vec<u8>)>,
        /// Answer every request with this status, error code and message.
        refusal: Option<(u16, &'static str)>,
        /// Listing is open, files are not.
        gated: bool,
        /// Answer downloads (not HEAD) with this status and an error page.
        broken_downloads: bool,
    }

    struct Server {
        address: String,
        /// `METHOD path authorization` of every request.
        seen: Arc<Mutex<Vec<String>>>,
        stop: Arc<std::sync::atomic::AtomicBool>,
    }

    impl Server {
        fn start(repo: &'static str, site: Site) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let seen = Arc::new(Mutex::new(Vec::new()));
            let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let (log, stopped) = (seen.clone(), stop.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                        return;
                    }
                    let (site, log) = (site.clone(), log.clone());
                    std::thread::spawn(move || answer(stream.unwrap(), repo, &site, &log));
                }
            });
            Self { address, seen, stop }
        }

        fn requests(&self) -> Vec<String> {
            self.seen.lock().unwrap().clone()
        }

        /// Closes the port: the listener goes with its thread.
        fn shut_down(self) {
            self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
            let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
            while TcpStream::connect(self.address.trim_start_matches("http://")).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }

        fn hub(&self, cache: &Path) -> Hub {
            Hub {
                endpoint: Some(self.address.clone()),
                token: Some("hf_test".into()),
                cache: Some(cache.to_path_buf()),
                retries: Some(1),
                ..Hub::default()
            }
        }
    }

    fn answer(mut stream: TcpStream, repo: &str, site: &Site, log: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_string());
        }
        let Some(first) = lines.first() else { return };
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let authorization = lines
            .iter()
            .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")))
            .map_or("none", |(_, value)| value);
        log.lock().unwrap().push(format!("{method} {path} {authorization}"));
        let mut respond = |status: u16, headers: &str, body: &[u8]| {
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
            let _ = stream.write_all(head.as_bytes());
            if method != "HEAD" {
                let _ = stream.write_all(body);
            }
        };
        if let Some((status, code)) = site.refusal {
            return respond(status, &format!("X-Error-Code: {code}\r\n"), b"{\"error\": \"refused\"}");
        }
        let path = path.split('?').next().unwrap();
        let resolve = [format!("/{repo}/resolve/{COMMIT}/"), format!("/datasets/{repo}/resolve/{COMMIT}/")];
        if path.contains(&format!("{repo}/tree/")) {
            if !path.ends_with("/main") && !path.ends_with(COMMIT) {
                return respond(404, "X-Error-Code: RevisionNotFound\r\n", b"{}");
            }
            let entries: Vec<_> = site
                .files
                .iter()
                .map(|(path, content)| {
                    serde_json::json!({"type": "file", "oid": "x", "size": content.len(), "path": path})
                })
                .collect();
            respond(200, "Content-Type: application/json\r\n", serde_json::json!(entries).to_string().as_bytes());
        } else if path.contains(&format!("{repo}/revision/")) {
            respond(
                200,
                "Content-Type: application/json\r\n",
                format!("{{\"sha\": \"{COMMIT}\", \"id\": \"{repo}\"}}").as_bytes(),
            );
        } else if let Some(file) = resolve.iter().find_map(|prefix| path.strip_prefix(prefix.as_str()))
            && let Some((_, content)) = site.files.iter().find(|(name, _)| *name == file)
        {
            if site.gated {
                return respond(403, "X-Error-Code: GatedRepo\r\n", b"");
            }
            if site.broken_downloads && method == "GET" {
                return respond(403, "", b"<html>no</html>");
            }
            let tag = crate::data::split::hash(&format!("{file}{}", content.len()));
            respond(200, &format!("ETag: \"{tag:x}\"\r\nX-Repo-Commit: {COMMIT}\r\n"), content);
        } else {
            respond(404, "X-Error-Code: EntryNotFound\r\n", b"{}");
        }
    }

    fn model_site() -> Site {
        Site {
            files: vec![
                ("README.md", b"# no".to_vec()),
                ("config.json", b"{\"vocab_size\": 96}".to_vec()),
                ("tokenizer.json", b"{}".to_vec()),
                ("model.safetensors", vec![7; 100_000]),
                ("onnx/model.onnx", vec![1; 10]),
                ("pytorch_model.bin", vec![2; 10]),
            ],
            ..Site::default()
        }
    }

    #[test]
    fn a_model_is_fetched_once_with_the_token_and_then_read_from_the_cache() {
        let server = Server::start("owner/tiny", model_site());
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let folder = hub.model("owner/tiny", None, Weights::Fetch).unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), vec![7; 100_000]);
        assert!(folder.ends_with(COMMIT));
        for absent in ["README.md", "onnx/model.onnx", "pytorch_model.bin"] {
            assert!(!folder.join(absent).exists(), "{absent}");
        }
        let requests = server.requests();
        assert!(requests.iter().all(|request| request.ends_with("Bearer hf_test")), "{requests:?}");
        let downloads =
            |requests: &[String]| requests.iter().filter(|line| line.starts_with("GET /owner/tiny/resolve")).count();
        assert_eq!(downloads(&requests), 3);

        assert_eq!(hub.model("owner/tiny", None, Weights::Fetch).unwrap(), folder);
        assert_eq!(downloads(&server.requests()), 3, "nothing is fetched twice");

        server.shut_down();
        assert_eq!(hub.model("owner/tiny", None, Weights::Fetch).unwrap(), folder);
        let offline = Hub { offline: true, ..hub };
        assert_eq!(offline.model("owner/tiny", None, Weights::Fetch).unwrap(), folder);
    }

    #[test]
    fn weights_are_left_alone_where_they_are_not_wanted() {
        let server = Server::start("owner/tiny", model_site());
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let folder = hub.model("owner/tiny", Some(COMMIT), Weights::Skip).unwrap();
        assert!(folder.join("config.json").exists() && !folder.join("model.safetensors").exists());
        // Offline, the missing weights are named.
        let offline = Hub { offline: true, ..hub };
        let error = offline.model("owner/tiny", Some(COMMIT), Weights::Fetch).unwrap_err().to_string();
        assert!(error.contains("`owner/tiny` has no `model.safetensors`"), "{error}");
    }

    #[test]
    fn a_data_set_is_fetched_by_split() {
        let site = Site {
            files: vec![
                ("train.jsonl", b"{\"question\": \"1+1?\", \"answer\": \"2\"}\n".to_vec()),
                ("test.jsonl", b"{\"question\": \"2+2?\", \"answer\": \"4\"}\n".to_vec()),
            ],
            ..Site::default()
        };
        let server = Server::start("owner/sums", site);
        let cache = tempfile::tempdir().unwrap();
        let config = crate::data::DataConfig {
            train: Some("owner/sums:train".into()),
            validation: Some(crate::data::Validation::Source("owner/sums:test".into())),
            ..Default::default()
        };
        let hub = server.hub(cache.path());
        let train = crate::data::load(&config, &hub, crate::data::Split::Train).unwrap();
        assert_eq!(train.problems().unwrap()[0].text, "1+1?");
        assert!(server.requests().iter().any(|line| line.starts_with("GET /datasets/owner/sums/resolve")));
        let test = crate::data::load(&config, &hub, crate::data::Split::Validation).unwrap();
        assert_eq!(test.problems().unwrap()[0].answer.as_deref(), Some("4"));
        let error = hub.data_set("owner/sums", None, None, "dev").unwrap_err().to_string();
        assert_eq!(error, "`owner/sums` has no files of split `dev`; it holds train.jsonl, test.jsonl");
    }

    #[test]
    fn refusals_are_one_clear_line_each() {
        for (refusal, expected) in [
            ((401, "RepoNotFound"), "was not found on the hub: check the name, or set HF_TOKEN if it is private"),
            ((404, "RepoNotFound"), "was not found on the hub"),
            ((403, "GatedRepo"), "is refused (status 403): accept its terms at "),
            ((401, "GatedRepo"), "is refused (status 401): accept its terms at "),
        ] {
            let server = Server::start("owner/tiny", Site { refusal: Some(refusal), ..model_site() });
            let cache = tempfile::tempdir().unwrap();
            let error = server.hub(cache.path()).model("owner/tiny", None, Weights::Fetch).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("`owner/tiny`"), "{error}");
            assert!(!error.contains('\n'));
        }
        let gated = Site { gated: true, ..model_site() };
        let server = Server::start("owner/tiny", gated);
        let cache = tempfile::tempdir().unwrap();
        let error = server.hub(cache.path()).model("owner/tiny", None, Weights::Fetch).unwrap_err();
        assert!(matches!(error, HubError::Unauthorised { status: 403, .. }), "{error}");
        let server = Server::start("owner/tiny", model_site());
        let cache = tempfile::tempdir().unwrap();
        let error = server.hub(cache.path()).model("owner/tiny", Some("v9"), Weights::Fetch).unwrap_err();
        assert_eq!(error.to_string(), "`owner/tiny` has no revision `v9`");
    }

    #[test]
    fn a_repository_without_usable_weights_says_so() {
        let files = vec![("config.json", b"{}".to_vec()), ("pytorch_model.bin", vec![0; 10])];
        let server = Server::start("owner/tiny", Site { files, ..Site::default() });
        let cache = tempfile::tempdir().unwrap();
        let error = server.hub(cache.path()).model("owner/tiny", None, Weights::Fetch).unwrap_err().to_string();
        assert_eq!(error, "`owner/tiny` has no `model.safetensors` or index of shards; only safetensors is read");
    }

    #[test]
    fn an_error_page_never_passes_for_a_file() {
        let server = Server::start("owner/tiny", Site { broken_downloads: true, ..model_site() });
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let error = hub.model("owner/tiny", None, Weights::Fetch).unwrap_err();
        assert!(matches!(error, HubError::Incomplete { found: 15, .. }), "{error}");
        // Once the downloads work again, the same cache gives the right files.
        let healthy = Server::start("owner/tiny", model_site());
        let folder = healthy.hub(cache.path()).model("owner/tiny", None, Weights::Fetch).unwrap();
        assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{\"vocab_size\": 96}");
        assert_eq!(std::fs::metadata(folder.join("model.safetensors")).unwrap().len(), 100_000);
    }

    #[test]
    fn without_a_server_and_without_a_cache_both_are_named() {
        let server = Server::start("owner/tiny", Site::default());
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        server.shut_down();
        let error = hub.model("owner/tiny", None, Weights::Fetch).unwrap_err().to_string();
        assert!(error.starts_with("there is no folder `owner/tiny` here, and it is not in the cache"), "{error}");
        assert!(error.contains("the hub at http://127.0.0.1:") && error.contains("cannot be reached"), "{error}");
        let offline = Hub { offline: true, ..hub };
        let error = offline.model("owner/tiny", None, Weights::Fetch).unwrap_err().to_string();
        assert!(error.starts_with("there is no folder") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
    }
}
