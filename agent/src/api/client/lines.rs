//! A stream of events: one JSON text per line.

use super::{ClientError, unreadable};
use crate::api::types::Line;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// Longest line that is accepted. A path may have 64 KiB, four times as much when every byte is escaped.
const LINE_BOUND: usize = 1 << 20;

/// The events of one operation. Dropping it closes the connection.
#[derive(Debug)]
pub struct EventStream<E> {
    path: String,
    body: Incoming,
    buffer: Vec<u8>,
    // Bytes at the beginning of `buffer` that were searched for a line's end already.
    searched: usize,
    ended: bool,
    kind: PhantomData<fn() -> E>,
}

impl<E: DeserializeOwned> EventStream<E> {
    pub(super) fn new(path: &str, body: Incoming) -> Self {
        Self {
            path: path.to_owned(),
            body,
            buffer: Vec::new(),
            searched: 0,
            ended: false,
            kind: PhantomData,
        }
    }

    /// The next event; `None` at the end of the stream. Waits without a bound: an operation may be silent as long as
    /// it likes, and the agent's death ends the stream. Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<E>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue; // Kept-alive by an empty line.
                }
                return match serde_json::from_slice(&line).map_err(|e| unreadable(&self.path, e))? {
                    Line::Event(event) => Ok(Some(event)),
                    Line::Error(error) => Err(error.into()),
                };
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > LINE_BOUND {
                return Err(unreadable(&self.path, "a line is too long"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
                Some(Err(e)) => return Err(ClientError::Broken(e.to_string())),
                None => self.ended = true,
            }
        }
    }

    // A line without its end; at the end of the stream also the rest.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        match self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
        {
            Some(at) => {
                let mut line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
                line.pop();
                self.searched = 0;
                Some(line)
            }
            None if self.ended && !self.buffer.is_empty() => {
                self.searched = 0;
                Some(std::mem::take(&mut self.buffer))
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}
