//! A small web server as a host's service: serves a directory, and takes files by PUT and DELETE.
//!
//! HTTP/1.1 (RFC 9112) in the part that the lab's client speaks: one request on a connection. Every answer
//! says in `X-Node` which host gave it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at once; more are closed unanswered, as a full server does.
const MAX_CONNECTIONS: usize = 64;
/// A request line or header line is at most this long.
const MAX_LINE: u64 = 8 * 1024;
/// Headers of one request.
const MAX_HEADERS: usize = 64;
/// Body of a PUT.
const MAX_BODY: u64 = 64 * 1024 * 1024;
/// A client that is silent for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server. Arguments: the directory, the port. Serves until it is killed.
pub(crate) fn main(args: Vec<OsString>) -> i32 {
    let [root, port] = args.as_slice() else {
        eprintln!("usage: lab-web DIRECTORY PORT");
        return 2;
    };
    let Some(port) = port.to_str().and_then(|p| p.parse::<u16>().ok()) else {
        eprintln!("lab-web: {} is no port", port.to_string_lossy());
        return 2;
    };
    match serve(Path::new(root), port) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("lab-web: port {port}: {e}");
            1
        }
    }
}

fn serve(root: &Path, port: u16) -> io::Result<()> {
    // Takes IPv4 as well (ipv6(7), bindv6only is 0), also for addresses that come later.
    let listener =
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    let node: Arc<str> = rustix::system::uname().nodename().to_string_lossy().into();
    let root: Arc<Path> = root.into();
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if busy.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (root, node, done) = (Arc::clone(&root), Arc::clone(&node), Arc::clone(&busy));
        let started = std::thread::Builder::new().spawn(move || {
            // A client that went away is no error of ours.
            let _ = answer(&root, &node, stream);
            done.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
    Ok(())
}

struct Request {
    method: String,
    path: PathBuf,
    length: u64,
}

fn answer(root: &Path, node: &str, stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(&stream);
    let Some(request) = read_request(&mut reader)? else {
        return respond(&stream, node, "400 Bad Request", b"bad request\n");
    };
    let path = root.join(&request.path);
    let outcome = match request.method.as_str() {
        "GET" => fs::metadata(&path).and_then(|meta| {
            if meta.is_dir() {
                Ok(format!("{node}\n").into_bytes())
            } else {
                fs::read(&path)
            }
        }),
        "PUT" => put(&path, reader.take(request.length)).map(|()| Vec::new()),
        "DELETE" => fs::remove_file(&path).map(|()| Vec::new()),
        _ => return respond(&stream, node, "405 Method Not Allowed", b""),
    };
    match outcome {
        Ok(body) => respond(&stream, node, "200 OK", &body),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            respond(&stream, node, "404 Not Found", b"")
        }
        Err(e) => respond(
            &stream,
            node,
            "500 Internal Server Error",
            format!("{e}\n").as_bytes(),
        ),
    }
}

/// Writes in place, as a simple upload script does.
fn put(path: &Path, mut body: impl Read) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::File::create(path)?;
    io::copy(&mut body, &mut file)?;
    Ok(())
}

fn respond(mut stream: &TcpStream, node: &str, status: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nX-Node: {node}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(MAX_LINE).read_line(&mut line)?;
    Ok(line)
}

/// A request, or none when it is malformed or too large.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let first = read_line(reader)?;
    let mut words = first.split_ascii_whitespace();
    let (Some(method), Some(target), Some("HTTP/1.0" | "HTTP/1.1")) =
        (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let Some(path) = file_path(target) else {
        return Ok(None);
    };
    let mut length = 0;
    for _ in 0..MAX_HEADERS {
        let line = read_line(reader)?;
        if line.trim().is_empty() {
            return Ok((length <= MAX_BODY).then(|| Request {
                method: method.to_string(),
                path,
                length,
            }));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            let Ok(n) = value.trim().parse() else {
                return Ok(None);
            };
            length = n;
        }
    }
    Ok(None)
}

/// The path below the root, with `%XX` decoded; none when it leaves the root.
fn file_path(target: &str) -> Option<PathBuf> {
    let target = target.split('?').next()?.strip_prefix('/')?;
    let mut bytes = Vec::with_capacity(target.len());
    let mut rest = target.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    let path = PathBuf::from(OsStr::from_bytes(&bytes));
    path.components()
        .all(|c| matches!(c, Component::Normal(_)))
        .then_some(path)
}

#[cfg(test)]
mod tests {
    use super::{file_path, read_request};
    use std::path::PathBuf;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(file_path("/a/b%20c?x=1"), Some(PathBuf::from("a/b c")));
        assert_eq!(file_path("/"), Some(PathBuf::new()));
        for bad in [
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "//etc/passwd",
            "x",
            "/%",
            "/%zz",
        ] {
            assert_eq!(file_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn bad_requests_are_refused() {
        for bad in [
            "",
            "GET\r\n\r\n",
            "GET / SMTP\r\n\r\n",
            "PUT /x HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ] {
            assert!(
                read_request(&mut bad.as_bytes()).is_ok_and(|r| r.is_none()),
                "{bad:?}"
            );
        }
        let good = "PUT /x HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc";
        let request = read_request(&mut good.as_bytes());
        assert!(request.is_ok_and(|r| r.is_some_and(|r| r.length == 3 && r.method == "PUT")));
    }
}
