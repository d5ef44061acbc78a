//! What an API server sends without an end is taken up to a bound, list after list: measured
//! in a process of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use svcnat::config::Config;
use svcnat::engine::Engine;
use svcnat::follow::Pending;
use svcnat::source::api::{Event, Kind, Limits, Reason, Settings, follow};

/// A field of this process's status in KiB.
fn status(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Starts a server that writes what `answer` makes of each request until the client has had
/// enough; its address.
fn serve(answer: fn(&str, &mut TcpStream) -> std::io::Result<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut text = String::new();
                let mut bytes = [0; 4096];
                // A client that hangs up ends this, as it should.
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    text.push_str(&String::from_utf8_lossy(&bytes[..n]));
                    if text.ends_with("\r\n\r\n") && answer(&text, &mut stream).is_err() {
                        return;
                    }
                    text.clear();
                }
            });
        }
    });
    address
}

fn chunked(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
}

fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

/// No two objects have one name, in whatever list.
static OBJECTS: AtomicUsize = AtomicUsize::new(0);

/// One more page, always.
fn endless_list(_: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    let items: Vec<String> = (0..500)
        .map(|_| {
            let n = OBJECTS.fetch_add(1, Ordering::Relaxed);
            format!(
                r#"{{"metadata":{{"name":"s{n}","namespace":"default"}},
                   "spec":{{"clusterIP":"10.1.2.3","ports":[{{"port":80}}]}}}}"#
            )
        })
        .collect();
    let n = OBJECTS.load(Ordering::Relaxed);
    let page = format!(
        r#"{{"metadata":{{"resourceVersion":"1","continue":"{n}"}},"items":[{}]}}"#,
        items.join(",")
    );
    chunked(stream)?;
    chunk(stream, &page)?;
    chunk(stream, "")
}

fn endless_page(_: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    chunked(stream)?;
    chunk(stream, r#"{"metadata":{"resourceVersion":"1"},"items":["#)?;
    let item = format!(r#"{{"metadata":{{"name":"{}"}}}},"#, "x".repeat(60_000));
    loop {
        chunk(stream, &item)?;
    }
}

fn endless_line(question: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    chunked(stream)?;
    if question.contains("watch=true") {
        chunk(stream, r#"{"type":"ADDED","object":{"metadata":{"name":""#)?;
        loop {
            chunk(stream, &"x".repeat(60_000))?;
        }
    }
    chunk(stream, r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#)?;
    chunk(stream, "")
}

#[test]
fn lists_pages_and_lines_without_an_end_do_not_fill_the_memory() {
    let limits = Limits {
        first_wait: Duration::from_millis(1),
        last_wait: Duration::from_millis(2),
        // However busy the machine is.
        head: Duration::from_secs(60),
        window: Duration::from_secs(60),
        object_bytes: 1 << 20,
        page_bytes: 8 << 20,
        list_objects: 20_000,
        ..Limits::default()
    };
    let cases = [
        ("list", endless_list as fn(&str, &mut TcpStream) -> _),
        ("page", endless_page),
        ("line", endless_line),
    ];
    let before = status("VmRSS:");
    for (what, answer) in cases {
        let settings = Settings {
            servers: vec![serve(answer)],
            node_name: "n1".to_owned(),
            page_size: 500,
            limits: limits.clone(),
            ..Settings::default()
        };
        let follower = follow(&settings).unwrap();
        let mut pending = Pending::default();
        let known = Engine::new(Config::default(), Vec::new());
        let (start, mut refused, mut most) = (Instant::now(), 0, 0);
        while refused < 8 {
            for event in follower.events() {
                if let Event::Lost("Service", failure) = &event {
                    assert_eq!(failure.reason, Reason::TooLarge, "{}", failure.message);
                    refused += 1;
                }
                pending.take(event, &known);
                most = most.max(pending.heard_of());
            }
            assert!(start.elapsed() < Duration::from_secs(300), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
        // One list of each kind at a time.
        let bound = limits.list_objects * Kind::ALL.len();
        assert!(most <= bound, "{what}: {most} objects are kept");
        println!("{what}: {most} objects, {} KiB at most", status("VmHWM:"));
    }
    let grown = status("VmHWM:") - before;
    assert!(grown < 300 << 10, "grown by {grown} KiB");
}
