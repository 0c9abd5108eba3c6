//! Pillow's `BOX` filter: each value is the mean of those whose centres it covers.
//!
//! The filter jumps at its ends, so where a centre lies on an end the last bit of the arithmetic decides whether a
//! whole pixel counts (halving an odd side to an even one does that once, in the middle). Hence the formula is
//! Pillow's (`precompute_coeffs` in `Resample.c`), term by term.

use std::ops::Range;

use crate::crop::Window;

/// Bits of Pillow's fixed-point weights.
const BITS: u32 = 22;

/// The pixels of `length` that each mean of a window is of.
fn spans(length: usize, window: Window) -> Vec<Range<usize>> {
    let scale = window.scale();
    let filter_scale = scale.max(1.0);
    let (support, reciprocal) = (0.5 * filter_scale, 1.0 / filter_scale);
    let span = |at: usize| {
        let centre = window.start + ((window.corner + at) as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let last = ((centre + support + 0.5).max(0.0) as usize).min(length);
        let covered = |pixel: &usize| {
            let distance = (*pixel as f64 - centre + 0.5) * reciprocal;
            distance > -0.5 && distance <= 0.5
        };
        let first = (first..last).find(covered).unwrap_or(first.min(length - 1));
        let end = (first..last).rev().find(covered).map_or(first + 1, |last| last + 1);
        first..end
    };
    (0..window.count).map(span).collect()
}

/// The weight of each of `count` values in their mean.
fn weight(count: usize) -> u32 {
    (0.5 + f64::from(1u32 << BITS) / count as f64) as u32
}

/// A mean of 8-bit values, from their sum and their weight.
fn mean(sum: u32, weight: u32) -> u8 {
    ((sum * weight + (1 << (BITS - 1))) >> BITS).min(255) as u8
}

/// The window of a picture `[height, width, 3]`, as Pillow makes it: across, then down.
pub(crate) fn resize(rgb: &[u8], width: usize, [across, down]: [Window; 2], target: &mut [u8]) {
    let row_bytes = 3 * width;
    let spans_down = spans(rgb.len() / row_bytes, down);
    let first = spans_down.iter().map(|span| span.start).min().unwrap_or(0);
    let end = spans_down.iter().map(|span| span.end).max().unwrap_or(first);
    let mut rows = vec![0; (end - first) * 3 * across.count];
    resize_across(&rgb[first * row_bytes..end * row_bytes], width, &spans(width, across), &mut rows);
    let spans_down = spans_down.into_iter().map(|span| span.start - first..span.end - first);
    resize_down(&rows, across.count, spans_down, target);
}

fn resize_across(rgb: &[u8], width: usize, spans: &[Range<usize>], target: &mut [u8]) {
    let spans: Vec<_> = spans.iter().map(|span| (weight(span.len()), span)).collect();
    for (row, out) in rgb.chunks_exact(3 * width).zip(target.chunks_exact_mut(3 * spans.len())) {
        let row = row.as_chunks::<3>().0;
        for ((weight, span), out) in spans.iter().zip(out.as_chunks_mut::<3>().0) {
            // Pairs are by far the most frequent: pictures are halved.
            *out = match &row[(*span).clone()] {
                [a, b] => std::array::from_fn(|i| mean(u32::from(a[i]) + u32::from(b[i]), *weight)),
                pixels => {
                    let mut sums = [0u32; 3];
                    for pixel in pixels {
                        for (sum, &value) in sums.iter_mut().zip(pixel) {
                            *sum += u32::from(value);
                        }
                    }
                    sums.map(|sum| mean(sum, *weight))
                }
            };
        }
    }
}

fn resize_down(rgb: &[u8], width: usize, spans: impl Iterator<Item = Range<usize>>, target: &mut [u8]) {
    let row_bytes = 3 * width;
    let mut sums = vec![0u32; row_bytes];
    for (span, out) in spans.zip(target.chunks_exact_mut(row_bytes)) {
        let weight = weight(span.len());
        sums.fill(0);
        for row in rgb[span.start * row_bytes..span.end * row_bytes].chunks_exact(row_bytes) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += u32::from(value);
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = mean(sum, weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_all_in_order() {
        let spans = |length, count| spans(length, Window::all(length, count));
        assert_eq!(spans(6, 3), [0..2, 2..4, 4..6]);
        assert_eq!(spans(3, 6), [0..1, 0..1, 1..2, 1..2, 2..3, 2..3]);
        for (length, count) in [(61, 30), (97, 48), (375, 187), (500, 250), (501, 250), (7, 1)] {
            let spans = spans(length, count);
            assert_eq!((spans[0].start, spans[count - 1].end), (0, length));
            assert!(spans.windows(2).all(|pair| pair[0].end.abs_diff(pair[1].start) <= 1));
        }
    }

    /// Pillow resizes the whole and cuts then: ends that lie on a pixel's centre fall as they do there.
    #[test]
    fn spans_of_a_window_are_those_of_the_whole() {
        for (length, target, count) in [(500, 96, 64), (500, 192, 128), (500, 384, 256), (255, 126, 64)] {
            let corner = (target - count) / 2;
            let whole = spans(length, Window::all(length, target));
            let window = spans(length, Window { corner, count, ..Window::all(length, target) });
            assert_eq!(window, whole[corner..corner + count], "{length} to {target}");
        }
    }

    #[test]
    fn means_are_rounded_to_the_nearest() {
        for count in 1..40 {
            for sum in 0..=255 * count as u32 {
                let exact = f64::from(sum) / count as f64;
                assert!((f64::from(mean(sum, weight(count))) - exact).abs() <= 0.5 + 1e-3, "{sum} / {count}");
            }
        }
    }
}
