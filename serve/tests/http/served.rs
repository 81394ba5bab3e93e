use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lwv_serve::{Model, Server, Settings, Stop};
use serde_json::{Value, json};

/// Nothing here takes as long; a test that would wait for ever fails by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a port of its own, which ends with the test.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves `model`, with a free port in the place of the settings' address.
    pub(crate) fn start(model: Model, settings: Settings) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(Settings { address, ..settings }).unwrap();
        let (address, stop) = (server.address().unwrap(), Stop::new());
        let of_the_server = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(server.run(model, of_the_server)).unwrap();
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    /// Sends a head and a body, and leaves the connection to the caller.
    pub(crate) fn send(&self, head: &[&str], body: &[u8]) -> Connection {
        let length = format!("Content-Length: {}", body.len());
        self.send_as_is(&[head, &[length.as_str()]].concat(), body)
    }

    /// The same without a length.
    pub(crate) fn send_as_is(&self, head: &[&str], body: &[u8]) -> Connection {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = format!("Host: {}", self.address);
        let has_host = head.iter().any(|line| line.starts_with("Host:"));
        let lines = head.iter().copied().chain((!has_host).then_some(host.as_str()));
        let request = lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        Connection {
            reader: BufReader::new(stream),
        }
    }

    /// Asks for something that needs no body.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(&[&format!("GET {path} HTTP/1.1")], b"").reply()
    }

    /// Begins to ask for a chat completion.
    pub(crate) fn begin(&self, request: &Value) -> Connection {
        let head = [
            "POST /v1/chat/completions HTTP/1.1",
            "Content-Type: application/json",
        ];
        self.send(&head, request.to_string().as_bytes())
    }

    /// Asks for a chat completion.
    pub(crate) fn ask(&self, request: &Value) -> Reply {
        self.begin(request).reply()
    }

    /// Asks, with one message of a user.
    pub(crate) fn chat(&self, text: &str, more: Value) -> Reply {
        self.ask(&chat(text, more))
    }

    /// Waits until the server says so of itself.
    pub(crate) fn wait_until(&self, writing: bool, requests: usize) {
        let begin = Instant::now();
        let wanted = (json!(writing), json!(requests));
        loop {
            let health = self.get("/health").body;
            if (&health["writing"], &health["requests"]) == (&wanted.0, &wanted.1) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{health}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the server has ended.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.end();
        self.join();
    }
}

/// A request with one message of a user, and more fields.
pub(crate) fn chat(text: &str, more: Value) -> Value {
    let mut request =
        json!({"model": "echo", "temperature": 0, "messages": [{"role": "user", "content": text}]});
    request
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    request
}

/// A connection on which a request was sent. Dropped, it is closed.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// All lines before the body, in lower case.
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Connection {
    /// Reads a response whose body is JSON, or empty.
    pub(crate) fn reply(mut self) -> Reply {
        let head = self.head();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.reader.read_exact(&mut body).unwrap();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            head,
        }
    }

    /// Reads the lines before the body.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(
                self.reader.read_line(&mut head).unwrap() > 0,
                "closed after: {head}"
            );
        }
        head.to_lowercase()
    }

    /// Reads events to the end of a stream, comments left out. Lines of chunk sizes are no events.
    pub(crate) fn events(self) -> Vec<String> {
        let lines = self.reader.lines().map(|line| line.unwrap());
        let mut events = Vec::new();
        for line in lines {
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            events.push(data.to_owned());
            if data == "[DONE]" {
                return events;
            }
        }
        panic!("closed after {events:?}");
    }

    /// Reads until there is text.
    pub(crate) fn wait_for_text(&mut self) {
        let mut line = String::new();
        while !line.contains(r#""delta":{"content":"#) {
            line.clear();
            assert!(
                self.reader.read_line(&mut line).unwrap() > 0,
                "closed before a text"
            );
        }
    }
}

impl Reply {
    /// The text of a completion.
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body["choices"][0]["message"]["content"].as_str().unwrap()
    }

    /// Fails unless the request was refused so.
    pub(crate) fn assert_refused(&self, status: u16, code: &str) {
        let error = &self.body["error"];
        assert_eq!(
            (self.status, error["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        assert!(
            error["message"].as_str().unwrap().len() > 10 && error["type"].is_string(),
            "{error}"
        );
    }
}
