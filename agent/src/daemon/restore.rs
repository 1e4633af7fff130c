//! `tandem rescue restore` and `tandem trash restore`: an entry goes from this node to the master, and from there its usual way.

use super::Daemon;
use crate::api::server::{Lines, STREAM_QUEUE};
use crate::api::types::{Line, RestoreEvent};
use crate::link::message::{CHUNK_MAX, ErrorCode, Request, Response};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tandem_sync::engine::{CommandError, Engine, PutEntry, PutFile};
use tandem_sync::entry::Meta;
use tandem_sync::owners::Names;
use tandem_sync::path::RelPath;
use tokio::sync::mpsc;

/// Files that are on their way at the same time: the command line sends one after the other.
const TRANSFERS: usize = 4;

/// One message of a transfer, the last one with its durable write included.
const CALL_BOUND: Duration = Duration::from_secs(30);

/// What the one who restores is told where both have a version.
const OCCUPIED: &str = "the master has another version; `--replace` puts this one in its place";

/// Tells the one who restores of each entry, and how many there were.
pub struct Tally {
    to: mpsc::Sender<Line<RestoreEvent>>,
    restored: u64,
    failed: u64,
}

impl Tally {
    /// None yet, and where they are told.
    pub fn begin() -> (Tally, Lines<RestoreEvent>) {
        let (to, lines) = mpsc::channel(STREAM_QUEUE);
        let tally = Tally {
            to,
            restored: 0,
            failed: 0,
        };
        (tally, lines)
    }

    /// What came of one.
    pub async fn add(&mut self, path: String, result: Result<(), String>) {
        let event = match result {
            Ok(()) => {
                self.restored += 1;
                RestoreEvent::Restored { path }
            }
            Err(why) => {
                self.failed += 1;
                RestoreEvent::Failed { path, why }
            }
        };
        self.tell(event).await;
    }

    /// That was all.
    pub async fn end(self) {
        let Tally {
            restored, failed, ..
        } = self;
        self.tell(RestoreEvent::Done { restored, failed }).await;
    }

    async fn tell(&self, event: RestoreEvent) {
        // What was asked for is done even if nobody listens any more.
        let _ = self.to.send(Line::Event(event)).await;
    }
}

/// What is to be put where.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    /// Tree.
    pub tree: String,
    /// Path within it.
    pub path: RelPath,
    /// Its owner, permission bits, time, ACLs and attributes.
    pub meta: Meta,
    /// Names of the numbers in that, where owners go by name.
    pub names: Option<Names>,
    /// Whether another version on the master gives way.
    pub replace: bool,
    /// What it is.
    pub what: What,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub enum What {
    /// A file of so many bytes, which will come.
    File {
        /// How many.
        size: u64,
    },
    /// A directory. One that is there is left as it is.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
}

impl Header {
    /// Bytes that will come.
    fn size(&self) -> u64 {
        match self.what {
            What::File { size } => size,
            What::Directory | What::Symlink(_) => 0,
        }
    }

    /// Puts it into the tree of this node, which is the master. `content` is that of a file.
    async fn put(self, engine: &Engine, content: Option<File>) -> Result<(), CommandError> {
        let to = PutFile {
            path: self.path,
            meta: self.meta,
            names: self.names,
            replace: self.replace,
        };
        let entry = match (self.what, content) {
            (What::File { .. }, Some(content)) => {
                return engine.put_file(&self.tree, to, content).await.map(drop);
            }
            (What::File { .. }, None) => {
                return Err(CommandError::BadPath("a file without content".to_owned()));
            }
            (What::Directory, _) => PutEntry::Directory,
            (What::Symlink(target), _) => PutEntry::Symlink(target),
        };
        engine.put_entry(&self.tree, to, entry).await.map(drop)
    }
}

/// Transfers that the peer began and did not end. What comes lies beside the files of its tree, under no name.
#[derive(Default)]
pub struct Restores {
    open: Mutex<(u64, HashMap<u64, Transfer>)>,
}

struct Transfer {
    header: Header,
    file: File,
    hasher: blake3::Hasher,
    received: u64,
}

impl Restores {
    /// A file will come. Only the master takes one.
    pub async fn begin(&self, daemon: &Daemon, header: &[u8]) -> Response {
        if let Err(error) = daemon.must_be_master() {
            return Response::error(ErrorCode::Refused, error.message);
        }
        let header: Header = match postcard::from_bytes(header) {
            Ok(Header {
                names: Some(names), ..
            }) if !names.fit() => {
                return Response::error(ErrorCode::Refused, "too many names of owners");
            }
            Ok(header) => header,
            Err(error) => return Response::error(ErrorCode::Unsupported, error.to_string()),
        };
        let file = match daemon.engine.nameless(&header.tree).await {
            Ok(file) => file,
            Err(error) => return Response::error(ErrorCode::Failed, error.to_string()),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.1.len() >= TRANSFERS {
            // The oldest belongs to a connection that is gone.
            if let Some(oldest) = open.1.keys().min().copied() {
                open.1.remove(&oldest);
            }
        }
        open.0 += 1;
        let transfer = open.0;
        let begun = Transfer {
            header,
            file,
            hasher: blake3::Hasher::new(),
            received: 0,
        };
        open.1.insert(transfer, begun);
        Response::RestoreReady { transfer }
    }

    /// The next bytes of a file.
    pub async fn chunk(&self, transfer: u64, data: Vec<u8>) -> Response {
        let Some(mut open) = self.take(transfer) else {
            return unknown_transfer();
        };
        open.received += data.len() as u64;
        if data.len() > CHUNK_MAX || open.received > open.header.size() {
            return Response::error(ErrorCode::Refused, "more bytes than were announced");
        }
        let written = tokio::task::spawn_blocking(move || {
            open.hasher.update(&data);
            open.file.write_all(&data).map(|()| open)
        });
        match written.await {
            Ok(Ok(open)) => {
                self.put_back(transfer, open);
                Response::Done
            }
            Ok(Err(error)) => Response::error(ErrorCode::Failed, error.to_string()),
            Err(error) => Response::error(ErrorCode::Failed, error.to_string()),
        }
    }

    /// The file is complete: it goes into the tree as any write on the master does.
    pub async fn end(&self, daemon: &Daemon, transfer: u64, hash: [u8; 32]) -> Response {
        let Some(open) = self.take(transfer) else {
            return unknown_transfer();
        };
        if open.hasher.finalize() != hash || open.received != open.header.size() {
            return Response::error(ErrorCode::Failed, "the file arrived damaged");
        }
        if let Err(error) = daemon.must_be_master() {
            return Response::error(ErrorCode::Refused, error.message);
        }
        match open.header.put(&daemon.engine, Some(open.file)).await {
            Ok(()) => Response::Done,
            Err(CommandError::Occupied(_)) => Response::error(ErrorCode::Refused, OCCUPIED),
            Err(error) => Response::error(ErrorCode::Failed, error.to_string()),
        }
    }

    /// The file will not be completed.
    pub fn abort(&self, transfer: u64) -> Response {
        self.take(transfer);
        Response::Done
    }

    fn take(&self, transfer: u64) -> Option<Transfer> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.1.remove(&transfer)
    }

    fn put_back(&self, transfer: u64, state: Transfer) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.1.insert(transfer, state);
    }
}

fn unknown_transfer() -> Response {
    Response::error(ErrorCode::Failed, "no such transfer: begin again")
}

impl Daemon {
    /// Sends one entry to the master, or puts it into the tree when this node is master itself. `file` has the content of a
    /// file.
    pub async fn restore(
        self: &Arc<Self>,
        header: Header,
        mut file: Option<File>,
    ) -> Result<(), String> {
        if self.must_be_master().is_ok() {
            return match header.put(&self.engine, file).await {
                Ok(()) => Ok(()),
                Err(CommandError::Occupied(_)) => Err(OCCUPIED.to_owned()),
                Err(error) => Err(error.to_string()),
            };
        }
        let rpc = self.peer_rpc().await.map_err(|e| e.message)?;
        let call = |request: Request| {
            let rpc = rpc.clone();
            async move {
                rpc.call(&request, CALL_BOUND)
                    .await
                    .map_err(|e| e.to_string())
            }
        };
        let encoded = postcard::to_stdvec(&header).map_err(|e| e.to_string())?;
        let transfer = match call(Request::RestoreBegin(encoded)).await? {
            Response::RestoreReady { transfer } => transfer,
            other => return Err(format!("unexpected answer {other:?}")),
        };
        let mut hasher = blake3::Hasher::new();
        while let Some(rest) = file.take() {
            let (data, rest) = read_chunk(rest).await?;
            if data.is_empty() {
                break;
            }
            file = Some(rest);
            hasher.update(&data);
            call(Request::RestoreChunk { transfer, data }).await?;
        }
        let hash = *hasher.finalize().as_bytes();
        call(Request::RestoreEnd { transfer, hash })
            .await
            .map(|_| ())
    }
}

async fn read_chunk(file: File) -> Result<(Vec<u8>, File), String> {
    tokio::task::spawn_blocking(move || {
        let mut data = Vec::with_capacity(CHUNK_MAX);
        let mut limited = file.take(CHUNK_MAX as u64);
        limited.read_to_end(&mut data)?;
        Ok((data, limited.into_inner()))
    })
    .await
    .map_err(|e| e.to_string())?
    .map_err(|e: std::io::Error| e.to_string())
}
