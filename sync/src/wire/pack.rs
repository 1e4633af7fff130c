//! Compressed packs: some frames in one, for a link that is slower than the core.
//!
//! A pack has the highest bit of its length set, and its body is one zstd frame (RFC 8878) that says how long its content
//! is: whole frames, none of which is a pack.

use super::frame::head;
use super::{FrameError, MAX_FRAME};
use bytes::{Buf, Bytes};

/// In the length of a frame: it is a pack.
pub(super) const PACK_BIT: u32 = 1 << 31;
/// Most bytes of the frames of a pack. The sender fills one up to 256 KiB, and the last frame may be a large one.
pub const MAX_PACK: usize = (256 << 10) + MAX_FRAME + 4;
/// Fast rather than small: 400 to 500 MB/s on one core, a third to a half of a text's bytes. A better one is slower than
/// the links that it is for.
const LEVEL: i32 = 1;

/// A pack of these frames, if that is smaller. `None`: send them as they are.
pub fn pack(frames: &[u8]) -> Option<Vec<u8>> {
    if frames.len() > MAX_PACK {
        return None;
    }
    let mut out = vec![0; 4];
    let body = zstd::bulk::compress(frames, LEVEL).ok()?;
    let length = u32::try_from(body.len()).ok()?;
    if body.len() > MAX_FRAME || body.len() >= frames.len() {
        return None;
    }
    out.copy_from_slice(&(length | PACK_BIT).to_le_bytes());
    out.extend_from_slice(&body);
    Some(out)
}

/// The frames of a pack's body. What they say is looked at one by one, by [`next_frame`].
///
/// # Errors
/// [`FrameError::Pack`]: no zstd, more than [`MAX_PACK`] bytes or another number than it says. No memory is taken for more.
pub fn unpack(body: &[u8]) -> Result<Bytes, FrameError> {
    let says = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
    let length = says
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| *length <= MAX_PACK)
        .ok_or(FrameError::Pack("its length is missing or absurd"))?;
    let frames = zstd::bulk::decompress(body, length);
    let frames = frames.map_err(|_| FrameError::Pack("it cannot be decompressed"))?;
    match frames.len() == length {
        true => Ok(frames.into()),
        false => Err(FrameError::Pack("it has another length than it says")),
    }
}

/// Takes the body of the next frame of a pack.
///
/// # Errors
/// A frame that is cut, too long, empty, or a pack in a pack.
pub fn next_frame(frames: &mut Bytes) -> Result<Bytes, FrameError> {
    let cut = FrameError::Pack("its last frame is cut");
    let Some((first, rest)) = frames.split_first_chunk() else {
        return Err(cut);
    };
    let (length, is_pack) = head(*first)?;
    if is_pack {
        return Err(FrameError::Pack("there is a pack in it"));
    }
    if rest.len() < length {
        return Err(cut);
    }
    frames.advance(first.len());
    Ok(frames.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let frames: Vec<u8> = (1..100u8).flat_map(|n| frame(&vec![n; 300])).collect();
        let packed = pack(&frames).unwrap();
        assert!(packed.len() < frames.len() / 10);
        let mut again = unpack(&packed[4..]).unwrap();
        assert_eq!(again, frames);
        assert_eq!(next_frame(&mut again).unwrap(), [1; 300][..]);
        assert_eq!(again, frames[304..]);
    }

    #[test]
    fn what_does_not_shrink_is_not_packed() {
        let noise: Vec<u8> = (0..4000u32)
            .flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes())
            .collect();
        assert_eq!(pack(&noise), None);
        assert_eq!(pack(&vec![0; MAX_PACK + 1]), None);
    }

    #[test]
    fn a_bomb_takes_no_memory() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < 16 << 10);
        assert!(matches!(unpack(&bomb), Err(FrameError::Pack(_))));
        // One that lies about its length: the field is at its begin (RFC 8878, 3.1.1.1).
        let honest = zstd::bulk::compress(&vec![0; 100_000], 1).unwrap();
        let at = honest
            .windows(4)
            .position(|w| w == 100_000u32.to_le_bytes());
        let mut lie = honest.clone();
        lie[at.unwrap()..][..4].copy_from_slice(&1000u32.to_le_bytes());
        assert!(unpack(&lie).is_err());
        for cut in 0..honest.len() {
            assert!(unpack(&honest[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_pack_in_a_pack_and_a_cut_frame_are_refused() {
        let inner = pack(&frame(&[7; 500])).unwrap();
        let mut outer = unpack(&pack(&[inner, frame(&[0; 500])].concat()).unwrap()[4..]).unwrap();
        assert!(matches!(next_frame(&mut outer), Err(FrameError::Pack(_))));
        for cut in [&[][..], &[1, 0, 0], &[2, 0, 0, 0, 9], &[0; 4]] {
            let mut cut = Bytes::from_static(cut);
            assert!(next_frame(&mut cut).is_err(), "{cut:?}");
        }
    }
}
