//! Frames: length, then one message in postcard, or a [pack](super::pack).

use super::pack::PACK_BIT;
use super::{BadMessage, Greeting, MAX_FRAME, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;
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

/// Appends the frame of `message` to `out`.
///
/// # Errors
/// [`FrameError::Length`] when it would be longer than the other end accepts; `out` is then as before.
pub fn encode_into<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Err(error) = postcard::to_extend(message, Append(out)) {
        out.truncate(start);
        return Err(FrameError::Decode(error));
    }
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
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    encode_into(message, &mut out)?;
    Ok(out)
}

/// Reads a message from the body of a frame and checks it.
///
/// # Errors
/// Whatever is not exactly one acceptable message.
pub fn decode(body: &[u8]) -> Result<Message, FrameError> {
    let message: Message = decode_any(body)?;
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

/// Reads any type from the whole body of a frame.
fn decode_any<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let (value, rest) = postcard::take_from_bytes(body).map_err(FrameError::Decode)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(FrameError::Trailing(rest.len()))
    }
}

/// Whether these bytes begin with a whole frame, or with one that no reader takes: [`read_frame`] does not wait then.
pub fn begins_with_frame(bytes: &[u8]) -> bool {
    bytes.split_first_chunk().is_some_and(|(head, rest)| {
        let length = (u32::from_le_bytes(*head) & !PACK_BIT) as usize;
        length > MAX_FRAME || rest.len() >= length
    })
}

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// One message.
    Message(Vec<u8>),
    /// A pack, for [`super::unpack`].
    Pack(Vec<u8>),
}

/// Reads the body of the next frame that is no pack; `None` when the stream ends between two frames.
///
/// Not cancel safe, as [`read_body`].
///
/// # Errors
/// As there, and a pack.
pub async fn read_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<Option<Vec<u8>>, FrameError> {
    match read_body(stream).await? {
        None => Ok(None),
        Some(Body::Message(body)) => Ok(Some(body)),
        Some(Body::Pack(_)) => Err(FrameError::Pack("none may come here")),
    }
}

/// Reads the body of the next frame; `None` when the stream ends between two frames.
///
/// Not cancel safe: a frame that was read in part is lost with the future, and the stream with it.
///
/// # Errors
/// The stream's, and a length that is zero or above [`MAX_FRAME`]: no memory is taken for such a frame.
pub async fn read_body<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Option<Body>, FrameError> {
    let mut head = [0u8; 4];
    let mut got = 0;
    while got < head.len() {
        match stream.read(&mut head[got..]).await? {
            0 if got == 0 => return Ok(None),
            0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            n => got += n,
        }
    }
    // On the platforms of Tandem (64 bit Linux) a u32 fits in usize.
    let head = u32::from_le_bytes(head);
    let length = (head & !PACK_BIT) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(FrameError::Length(length));
    }
    let mut body = vec![0u8; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(match head & PACK_BIT {
        0 => Body::Message(body),
        _ => Body::Pack(body),
    }))
}
