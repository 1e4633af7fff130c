//! Frames: length, then one message in postcard, or a [pack](super::pack).

use super::pack::PACK_BIT;
use super::{BadMessage, Greeting, MAX_FRAME, Message};
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a frame cannot be read or is not a message.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("stream: {0}")]
    Stream(#[from] std::io::Error),
    /// Longer than [`MAX_FRAME`], or empty.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// Not a message of this version.
    #[error("a frame that is no message: {0}")]
    Decode(postcard::Error),
    /// Bytes after the message.
    #[error("a frame with {0} bytes too many")]
    Trailing(usize),
    /// A pack that is none.
    #[error("a compressed pack: {0}")]
    Pack(&'static str),
    /// A message that breaks a rule.
    #[error("{0}")]
    Bad(#[from] BadMessage),
}

/// What a frame holds.
pub trait Framed: Serialize {
    /// Bytes that follow it in its frame.
    fn content(&self) -> &[u8] {
        &[]
    }
}

impl Framed for Greeting {}

impl Framed for Message {
    fn content(&self) -> &[u8] {
        match self {
            Message::Data { bytes, .. } => bytes,
            _ => &[],
        }
    }
}

/// Appends the frame of `message` to `out`.
///
/// # Errors
/// [`FrameError::Length`] when it would be longer than the other end accepts; `out` is then as before.
pub fn encode_into<T: Framed>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Err(error) = postcard::to_extend(message, Append(out)) {
        out.truncate(start);
        return Err(FrameError::Decode(error));
    }
    out.extend_from_slice(message.content());
    let length = out.len() - start - 4;
    match u32::try_from(length) {
        Ok(n) if length <= MAX_FRAME => out[start..start + 4].copy_from_slice(&n.to_le_bytes()),
        _ => {
            out.truncate(start);
            return Err(FrameError::Length(length));
        }
    }
    Ok(())
}

/// Lets postcard append to a buffer that somebody else owns.
struct Append<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Append<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

/// The frame of `message`.
///
/// # Errors
/// As [`encode_into`].
pub fn encode<T: Framed>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    encode_into(message, &mut out)?;
    Ok(out)
}

/// Reads a message from the body of a frame and checks it. The bytes of a `Data` are those of the body, which lives as long as
/// they do.
///
/// # Errors
/// Whatever is not exactly one acceptable message.
pub fn decode(body: &Bytes) -> Result<Message, FrameError> {
    let (mut message, rest) =
        postcard::take_from_bytes::<Message>(body).map_err(FrameError::Decode)?;
    match &mut message {
        Message::Data { bytes, .. } => *bytes = body.slice_ref(rest),
        _ if rest.is_empty() => {}
        _ => return Err(FrameError::Trailing(rest.len())),
    }
    message.check()?;
    Ok(message)
}

/// Reads a greeting from the body of a frame. Bytes after it are of a later version, and ignored.
///
/// # Errors
/// Anything that is not a greeting of Tandem.
pub fn decode_greeting(body: &[u8]) -> Result<Greeting, FrameError> {
    let (greeting, _): (Greeting, _) =
        postcard::take_from_bytes(body).map_err(FrameError::Decode)?;
    if greeting.magic == Greeting::MAGIC {
        Ok(greeting)
    } else {
        Err(BadMessage("not a greeting of Tandem").into())
    }
}

/// Whether these bytes begin with a whole frame, or with one that no reader takes.
pub fn begins_with_frame(bytes: &[u8]) -> bool {
    bytes
        .split_first_chunk()
        .is_some_and(|(first, rest)| head(*first).map_or(true, |(length, _)| rest.len() >= length))
}

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// One message.
    Message(Bytes),
    /// A pack, for [`super::unpack`].
    Pack(Bytes),
}

/// The length of a frame's body, and whether it is a pack.
pub(super) fn head(head: [u8; 4]) -> Result<(usize, bool), FrameError> {
    // On the platforms of Tandem (64 bit Linux) a u32 fits in usize.
    let head = u32::from_le_bytes(head);
    let length = (head & !PACK_BIT) as usize;
    match length {
        1..=MAX_FRAME => Ok((length, head & PACK_BIT != 0)),
        _ => Err(FrameError::Length(length)),
    }
}

/// Takes the body of the frame that `bytes` begin with: or how many bytes are missing, at least.
///
/// # Errors
/// A length that is zero or above [`MAX_FRAME`].
pub fn take_body(bytes: &mut BytesMut) -> Result<Result<Body, usize>, FrameError> {
    let Some(first) = bytes.first_chunk::<4>() else {
        return Ok(Err(4 - bytes.len()));
    };
    let (length, pack) = head(*first)?;
    let whole = first.len() + length;
    if bytes.len() < whole {
        return Ok(Err(whole - bytes.len()));
    }
    let mut body = bytes.split_to(whole).freeze();
    body.advance(4);
    Ok(Ok(match pack {
        false => Body::Message(body),
        true => Body::Pack(body),
    }))
}

/// Reads the body of one frame that is no pack, and not a byte that follows it; `None` when the stream ends before it.
///
/// Not cancel safe: a frame that was read in part is lost with the future, and the stream with it.
///
/// # Errors
/// The stream's, a pack, and a length that is zero or above [`MAX_FRAME`]: no memory is taken for such a frame.
pub async fn read_frame<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Option<Bytes>, FrameError> {
    let mut first = [0u8; 4];
    let mut got = 0;
    while got < first.len() {
        match stream.read(&mut first[got..]).await? {
            0 if got == 0 => return Ok(None),
            0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            n => got += n,
        }
    }
    let (length, pack) = head(first)?;
    if pack {
        return Err(FrameError::Pack("none may come here"));
    }
    let mut body = vec![0u8; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(body.into()))
}
