//! A product of tensors as cuBLASLt takes it, by arithmetic alone.
//!
//! The library's matrices are stored by columns: one of rows is to it the transposed one. So it is asked for
//! the product's transposed, in which the operands change places.

/// What of a tensor a product can be taken of.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Two dimensions or more, the last two a matrix's rows and columns.
    pub shape: &'a [usize],
    /// Of each dimension, in numbers.
    pub strides: &'a [usize],
}

/// One operand of a batch, stored by columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Numbers that lie side by side.
    pub rows: usize,
    /// How many times.
    pub columns: usize,
    /// Numbers from a column to the next.
    pub between: usize,
    /// Numbers from one of the batch to the next.
    pub stride: usize,
}

/// An operand, and whether it is taken as it is stored or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operand {
    /// As it is stored.
    pub matrix: Matrix,
    /// Whether its rows are the product's inner dimension (of a first one; of a second, its columns).
    pub is_turned: bool,
}

/// `out = first * second`, each stored by columns: of tensors a and b it is `(a b)^T = b^T a^T`, so that the first is b.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Of b.
    pub first: Operand,
    /// Of a.
    pub second: Operand,
    /// Of the result; never turned.
    pub out: Matrix,
    /// Products at once.
    pub batch: usize,
}

impl Layout {
    /// Of `a` and `b` into `out`, whose sizes fit; `None` where a matrix has gaps between the numbers of its rows and of its columns,
    /// or where those of a batch are not one stride apart.
    pub fn new(a: View, b: View, out: View) -> Option<Self> {
        let (first, of_b) = operand(b)?;
        let (second, of_a) = operand(a)?;
        let (result, batch) = operand(out)?;
        if result.is_turned || of_a != batch || of_b != batch {
            return None;
        }
        Some(Self { first, second, out: result.matrix, batch })
    }
}

/// A tensor's matrices, and how many there are.
fn operand(view: View) -> Option<(Operand, usize)> {
    let View { shape, strides } = view;
    let (ahead, &[rows, columns]) = shape.split_last_chunk::<2>()?;
    let (strides_ahead, &[of_row, of_column]) = strides.split_last_chunk::<2>()?;
    let (batch, stride) = batch(ahead, strides_ahead)?;
    // A single row or column has no stride of its own.
    let by_rows = columns == 1 || of_column == 1;
    let by_columns = rows == 1 || of_row == 1;
    let matrix = |side: usize, times: usize, between: usize| {
        let between = if times == 1 { side } else { between };
        (between >= side).then_some(Matrix { rows: side, columns: times, between, stride })
    };
    let (matrix, is_turned) = if by_rows {
        (matrix(columns, rows, of_row)?, false)
    } else if by_columns {
        (matrix(rows, columns, of_column)?, true)
    } else {
        return None;
    };
    Some((Operand { matrix, is_turned }, batch))
}

/// How many matrices there are, and the numbers from one to the next.
fn batch(shape: &[usize], strides: &[usize]) -> Option<(usize, usize)> {
    let mut count = 1;
    let mut first = 0;
    for (&length, &stride) in shape.iter().zip(strides).rev().filter(|(length, _)| **length != 1) {
        if count == 1 {
            first = stride;
        } else if stride != first * count {
            return None;
        }
        count *= length;
    }
    Some((count, first))
}

/// The alignment of what lies so many bytes behind what is aligned to `most`, a power of two.
pub fn alignment(offset: u64, most: u64) -> u64 {
    if offset == 0 { most } else { most.min(1 << offset.trailing_zeros()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(shape: &'a [usize], strides: &'a [usize]) -> View<'a> {
        View { shape, strides }
    }

    /// The product by a layout, number by number, as the library's reference has it.
    fn product(layout: &Layout, a: &[f64], b: &[f64], out: &mut [f64]) {
        let at = |operand: &Operand, data: &[f64], batch: usize, row: usize, column: usize| {
            let (row, column) = if operand.is_turned { (column, row) } else { (row, column) };
            let Matrix { rows, columns, between, stride } = operand.matrix;
            assert!(row < rows && column < columns);
            data[batch * stride + column * between + row]
        };
        let inner =
            if layout.first.is_turned { layout.first.matrix.rows } else { layout.first.matrix.columns };
        for batch in 0..layout.batch {
            for column in 0..layout.out.columns {
                for row in 0..layout.out.rows {
                    let sum = (0..inner)
                        .map(|k| {
                            at(&layout.first, b, batch, row, k) * at(&layout.second, a, batch, k, column)
                        })
                        .sum();
                    out[batch * layout.out.stride + column * layout.out.between + row] = sum;
                }
            }
        }
    }

    fn numbers(count: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * 37 + 11) % 101) as f64 - 50.0).collect()
    }

    /// By the tensors' own shapes and strides.
    fn expected(a: (View, &[f64]), b: (View, &[f64]), out: View, into: &mut [f64]) {
        let place = |of: View, index: &[usize]| {
            index.iter().zip(of.strides).map(|(i, stride)| i * stride).sum::<usize>()
        };
        let [first, second, rows, columns] = *out.shape else { panic!("four dimensions") };
        let inner = a.0.shape[3];
        for i in 0..first * second * rows * columns {
            let (row, column) = (i / columns % rows, i % columns);
            let (of, which) = (i / columns / rows / second, i / columns / rows % second);
            into[place(out, &[of, which, row, column])] = (0..inner)
                .map(|k| a.1[place(a.0, &[of, which, row, k])] * b.1[place(b.0, &[of, which, k, column])])
                .sum();
        }
    }

    #[test]
    fn layouts_give_the_product_of_the_tensors() {
        let (p, q, m, k, n) = (2, 3, 5, 4, 7);
        // By rows with gaps, by columns, and by rows without gaps.
        let of_a: [([usize; 4], [usize; 4]); 2] =
            [([p, q, m, k], [q * m * 6, m * 6, 6, 1]), ([p, q, m, k], [q * m * k, m * k, 1, m])];
        let of_b: [([usize; 4], [usize; 4]); 2] =
            [([p, q, k, n], [q * k * n, k * n, n, 1]), ([p, q, k, n], [q * n * 9, n * 9, 1, 9])];
        let (shape, strides) = ([p, q, m, n], [q * m * 8, m * 8, 8, 1]);
        for (a_shape, a_strides) in of_a {
            for (b_shape, b_strides) in of_b {
                let (a, b, out) =
                    (view(&a_shape, &a_strides), view(&b_shape, &b_strides), view(&shape, &strides));
                let layout = Layout::new(a, b, out).unwrap();
                let (of_a, of_b) = (numbers(p * a_strides[0]), numbers(p * b_strides[0]));
                let mut found = vec![0.0; p * strides[0]];
                let mut right = found.clone();
                product(&layout, &of_a, &of_b, &mut found);
                expected((a, &of_a), (b, &of_b), out, &mut right);
                assert_eq!(found, right, "{a_strides:?} {b_strides:?}");
                assert_eq!((layout.batch, layout.out.between), (p * q, 8));
            }
        }
    }

    #[test]
    fn what_the_library_cannot_take_is_said() {
        let square = view(&[4, 4], &[4, 1]);
        let with_gaps = view(&[4, 4], &[8, 2]);
        let within_itself = view(&[4, 4], &[2, 1]);
        let turned = view(&[4, 4], &[1, 4]);
        assert!(Layout::new(square, turned, square).is_some());
        assert!(Layout::new(with_gaps, square, square).is_none());
        assert!(Layout::new(within_itself, square, square).is_none());
        assert!(Layout::new(square, square, turned).is_none());
        // Heads side by side: samples are not a multiple of heads apart.
        let heads = view(&[2, 3, 5, 4], &[5 * 12, 4, 12, 1]);
        let apart = view(&[2, 3, 5, 4], &[3 * 5 * 4, 5 * 4, 4, 1]);
        let inner = view(&[2, 3, 4, 4], &[48, 16, 4, 1]);
        assert!(Layout::new(apart, inner, heads).is_none());
        assert!(Layout::new(apart, inner, apart).is_some());
        // One of another batch.
        assert!(Layout::new(apart, square, apart).is_none());
    }

    #[test]
    fn a_single_row_or_matrix_has_no_stride() {
        let row = view(&[1, 1, 4], &[99, 77, 1]);
        let matrix = view(&[1, 4, 3], &[5, 3, 1]);
        let out = view(&[1, 1, 3], &[1, 1, 1]);
        let layout = Layout::new(row, matrix, out).unwrap();
        assert_eq!(layout.second.matrix, Matrix { rows: 4, columns: 1, between: 4, stride: 0 });
        assert_eq!((layout.batch, layout.out.between), (1, 3));
    }

    #[test]
    fn alignment_is_the_offset_s() {
        for (offset, expected) in [(0, 256), (512, 256), (256, 256), (2, 2), (48, 16)] {
            assert_eq!(alignment(offset, 256), expected);
        }
    }
}
