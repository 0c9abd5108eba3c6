use burn::tensor::Tensor;

use crate::host;

/// Tanh gelu, `0.5 x (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, written as `x / (1 + exp(-2u))`.
///
/// The two are equal; this one needs an exponential only, which is several times faster on the CPU than `tanh`.
/// The exponent is held at 40: beyond it the quotient is zero to f32's precision, and the square in the
/// derivative would overflow.
///
/// On a tape it is a line with the slope at `x`: one product in its backward pass, and one tensor to keep for it.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>, on_host: bool) -> Tensor<D> {
    match (on_host, x.device().is_autodiff()) {
        (true, false) => return host::gelu(x),
        (true, true) => {
            let (slope, rest) = host::gelu_line(x.clone().inner());
            return x * slope + rest;
        }
        (false, _) => (),
    }
    const TWICE_SQRT_2_OVER_PI: f64 = 1.595_769_121_605_730_8;
    const CUBIC: f64 = 0.044_715;
    let at = x.clone().inner();
    let square = at.clone() * at.clone();
    let exponent = at.clone() * (square.clone() * (-TWICE_SQRT_2_OVER_PI * CUBIC) - TWICE_SQRT_2_OVER_PI);
    let denominator = exponent.clamp_max(40.0).exp() + 1.0;
    if !x.device().is_autodiff() {
        return at / denominator;
    }
    let gate = denominator.recip();
    let value = at.clone() * gate.clone();
    let of_exponent = square * (3.0 * TWICE_SQRT_2_OVER_PI * CUBIC) + TWICE_SQRT_2_OVER_PI;
    // gate + value (1 - gate) 2u'
    let slope = (gate.clone().neg() + 1.0) * of_exponent * value.clone() + gate;
    let rest = value - at * slope.clone();
    x * slope + rest
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn values_and_slopes_are_those_of_the_tanh_form() {
        let xs = [-300.0f32, -12.0, -3.0, -0.5, 0.0, 0.7, 4.0, 50.0];
        let device = Device::flex().autodiff();
        for on_host in [false, true] {
            let x = Tensor::<1>::from_floats(xs, &device).require_grad();
            let y = gelu(x.clone(), on_host);
            let off_the_tape = gelu(x.clone().inner(), on_host).into_data().try_into_vec::<f32>().unwrap();
            let slopes =
                x.grad(&y.clone().sum().backward()).unwrap().into_data().try_into_vec::<f32>().unwrap();
            let values = y.into_data().try_into_vec::<f32>().unwrap();
            let exact =
                |x: f64| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh());
            for (((&x, value), slope), off_the_tape) in xs.iter().zip(values).zip(slopes).zip(off_the_tape) {
                let x = f64::from(x);
                assert!((value - off_the_tape).abs() < 1e-6, "gelu({x}) = {value}, {off_the_tape}");
                assert!((f64::from(value) - exact(x)).abs() < 1e-6, "gelu({x}) = {value}");
                let difference = (exact(x + 1e-4) - exact(x - 1e-4)) / 2e-4;
                assert!(
                    (f64::from(slope) - difference).abs() < 1e-4,
                    "gelu'({x}) = {slope}, not {difference}"
                );
            }
        }
    }
}
