//! Canvases one after the other, as a GIF that runs for ever.

use anyhow::Result;
use gif::{Encoder, Frame, Repeat};

use super::canvas::Canvas;

/// Encodes frames of one size; each is shown for `hundredths` of a second, the last one five times as long.
pub fn gif(frames: &[Canvas], hundredths: u16) -> Result<Vec<u8>> {
    let Some(first) = frames.first() else { return Ok(Vec::new()) };
    let (width, height) = (u16::try_from(first.width())?, u16::try_from(first.height())?);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, &[])?;
    encoder.set_repeat(Repeat::Infinite)?;
    for (i, canvas) in frames.iter().enumerate() {
        let mut frame = Frame::from_rgb_speed(width, height, canvas.rgb(), 10);
        frame.delay = if i + 1 == frames.len() { 5 * hundredths } else { hundredths };
        encoder.write_frame(&frame)?;
    }
    drop(encoder);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_there() {
        let frames: Vec<Canvas> = (0..4).map(|i| Canvas::new(10, 6, [60 * i; 3])).collect();
        let bytes = gif(&frames, 20).unwrap();
        let mut decoder = gif::DecodeOptions::new().read_info(bytes.as_slice()).unwrap();
        let mut delays = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            delays.push(frame.delay);
        }
        assert_eq!(delays, [20, 20, 20, 100]);
    }
}
