//! An HTTP server on loopback for tests: one closure answers every request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// What a request is answered by.
pub(super) enum Answer {
    Json(Value),
    /// Status, further headers, body.
    Raw(u16, &'static str, String),
    /// After a while.
    Late(Duration, Value),
    /// The connection is closed without a word.
    Drop,
}

/// A request as it came.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) headers: String,
    pub(super) body: Value,
}

pub(super) struct Loopback {
    pub(super) url: String,
    pub(super) asked: Arc<Mutex<Vec<Asked>>>,
    /// The most requests that were under way at one time.
    pub(super) most: Arc<AtomicUsize>,
}

impl Loopback {
    /// `answer` is called with the number of the request, from 0, and its body.
    pub(super) fn new(answer: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, most) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (answer, log, peak, open) = (Arc::new(answer), asked.clone(), most.clone(), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log, peak, open) = (answer.clone(), log.clone(), peak.clone(), open.clone());
                std::thread::spawn(move || serve(stream, &*answer, &log, &peak, &open));
            }
        });
        Self { url, asked, most }
    }

    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn serve(
    stream: TcpStream,
    answer: &(dyn Fn(usize, &Value) -> Answer + Send + Sync),
    log: &Mutex<Vec<Asked>>,
    peak: &AtomicUsize,
    open: &AtomicUsize,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut headers, mut length, mut path) = (String::new(), 0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let number = {
        let mut log = log.lock().unwrap();
        log.push(Asked { path, headers, body: body.clone() });
        log.len() - 1
    };
    peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    let (status, more, text) = match answer(number, &body) {
        Answer::Json(value) => (200, "", value.to_string()),
        Answer::Raw(status, more, text) => (status, more, text),
        Answer::Late(wait, value) => {
            std::thread::sleep(wait);
            (200, "", value.to_string())
        }
        Answer::Drop => {
            open.fetch_sub(1, Ordering::SeqCst);
            return;
        }
    };
    open.fetch_sub(1, Ordering::SeqCst);
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", text.len());
    let mut stream = stream;
    // A client that went away is part of some tests.
    let _ = stream.write_all((head + &text).as_bytes());
}
