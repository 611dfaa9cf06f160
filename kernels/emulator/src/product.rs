//! Products of matrices in the emulator: what a library does on a device, in plain loops.

use osler_kernels::cuda::{Operand, OutputKind, Product, float_from_bf16, float_to_bf16};

/// One row of the output at a time, `Σ left · right` in f32 in order of the inner index.
pub fn multiply(product: &Product) {
    let Product { rows, columns, inner, .. } = *product;
    if rows == 0 || columns == 0 {
        return;
    }
    let (left, right) = (matrix(product.left, rows, inner), matrix(product.right, inner, columns));
    // SAFETY: the caller of `Launcher::multiply` gives the address of `columns` bf16 numbers.
    let bias = product.bias.map(|address| unsafe { std::slice::from_raw_parts(address as *const u16, columns) });
    let mut sums = vec![0.0f32; columns];
    for row in 0..rows {
        sums.fill(0.0);
        for (inner, &factor) in left[row * inner..(row + 1) * inner].iter().enumerate() {
            let right = &right[inner * columns..(inner + 1) * columns];
            sums.iter_mut().zip(right).for_each(|(sum, &right)| *sum += factor * right);
        }
        for (column, sum) in sums.iter().enumerate() {
            let value = sum + bias.map_or(0.0, |bias| float_from_bf16(bias[column]));
            // SAFETY: the caller gives the address of `rows * columns` numbers of this kind; the device runs one thing at a time.
            unsafe { store(product, row * columns + column, value) };
        }
    }
}

/// # Safety
/// `product.output` is the address of more than `at` numbers of its kind, which nothing else touches meanwhile.
unsafe fn store(product: &Product, at: usize, value: f32) {
    match product.output_kind {
        OutputKind::Exact => {
            // SAFETY: see above.
            let output = unsafe { &mut *(product.output as *mut f32).add(at) };
            *output = if product.add { *output + value } else { value };
        }
        OutputKind::Stored => {
            // SAFETY: see above.
            let output = unsafe { &mut *(product.output as *mut u16).add(at) };
            *output = float_to_bf16(if product.add { float_from_bf16(*output) + value } else { value });
        }
    }
}

/// `[rows, columns]`, as it is meant and not as it lies.
fn matrix(operand: Operand, rows: usize, columns: usize) -> Vec<f32> {
    // SAFETY: the caller of `Launcher::multiply` gives the address of `rows * columns` bf16 numbers.
    let numbers = unsafe { std::slice::from_raw_parts(operand.address as *const u16, rows * columns) };
    let at = |index: usize| if operand.transposed { index % columns * rows + index / columns } else { index };
    (0..rows * columns).map(|index| float_from_bf16(numbers[at(index)])).collect()
}
