//! Length-capped frames on the control connection: u32 (little endian) length, then that many bytes.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame: the lineages of 32 trees with 1024 epochs each are 2 to 3 MiB.
pub(crate) const FRAME_MAX: usize = 4 << 20;

/// Reads one frame. `None`: the peer ended the stream between two frames. Not cancel safe.
///
/// The length is checked before memory is taken, and memory grows with what has arrived.
pub(crate) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    if reader.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut header[1..]).await?;
    let length = u32::from_le_bytes(header) as usize;
    if length > max {
        let text = format!("frame of {length} bytes, allowed are {max}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut frame = Vec::new();
    reader.take(length as u64).read_to_end(&mut frame).await?;
    if frame.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(frame))
}

/// Writes one frame. Not cancel safe. A frame above [`FRAME_MAX`] is an error and nothing is written.
pub(crate) async fn write(writer: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    if frame.len() > FRAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "frame too long",
        ));
    }
    // One write: one packet of the secure channel if it is small.
    let mut bytes = Vec::with_capacity(4 + frame.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(frame);
    writer.write_all(&bytes).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            wait(async {
                let mut bytes = Vec::new();
                for frame in &frames {
                    write(&mut bytes, frame).await.unwrap();
                }
                let mut reader = &bytes[..];
                for frame in &frames {
                    assert_eq!(read(&mut reader, FRAME_MAX).await.unwrap().as_ref(), Some(frame));
                }
                assert_eq!(read(&mut reader, FRAME_MAX).await.unwrap(), None);
            });
        }

        #[test]
        fn any_bytes_end_in_a_frame_an_end_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            wait(async {
                let mut reader = &bytes[..];
                while let Ok(Some(frame)) = read(&mut reader, 16).await {
                    assert!(frame.len() <= 16);
                }
            });
        }
    }

    #[test]
    fn a_length_above_the_cap_takes_no_memory() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let error = wait(read(&mut &bytes[..], FRAME_MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_torn_frame_is_an_error() {
        let bytes = [3, 0, 0, 0, 1, 2];
        let error = wait(read(&mut &bytes[..], FRAME_MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
