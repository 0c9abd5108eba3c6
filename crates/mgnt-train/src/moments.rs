//! AdamW's state as a resumed run finds it: on no device until the first step asks for it.

use burn::optim::{AdamWState, AdaptiveMomentumState, RecordState, StateSink, StateSource, join_path};
use burn::tensor::{Device, Tensor, TensorData};

/// What AdamW remembers of one parameter.
///
/// Burn's optimizer makes loaded states on the process's default device, from where the first step moves them to the
/// parameter's. That may be a device that the run has nothing to do with, without the memory for them, or not there at all. So
/// what was loaded stays on the host until then.
#[derive(Clone)]
pub(crate) enum Moments<const D: usize> {
    /// Of steps that were done.
    OnDevice(Box<AdamWState<D>>),
    /// As they were loaded.
    Loaded {
        /// Steps that they are of.
        steps: usize,
        /// First and second moment.
        moments: Box<[TensorData; 2]>,
    },
}

/// Names of a record's leaves, which are those of Burn's own [`AdamWState`].
const WITHIN: &str = "momentum";
const STEPS: &str = "time";
const MOMENTS: [&str; 2] = ["moment_1", "moment_2"];

impl<const D: usize> Moments<D> {
    /// The state on a device.
    pub fn on(self, device: &Device) -> AdamWState<D> {
        match self {
            Self::OnDevice(state) => AdamWState::new(state.momentum.to_device(device)),
            Self::Loaded { steps, moments } => {
                let [first, second] = (*moments).map(|data| Tensor::from_data(data, device));
                AdamWState::new(AdaptiveMomentumState::new(steps, first, second))
            }
        }
    }
}

impl<const D: usize> From<AdamWState<D>> for Moments<D> {
    fn from(state: AdamWState<D>) -> Self {
        Self::OnDevice(Box::new(state))
    }
}

impl<const D: usize> RecordState for Moments<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        match self {
            Self::OnDevice(state) => state.state_flatten(prefix, out),
            Self::Loaded { steps, moments } => {
                let within = join_path(prefix, WITHIN);
                out.push_scalar(&within, STEPS, (*steps).into());
                for (name, data) in MOMENTS.iter().zip(moments.iter()) {
                    out.push_tensor(&within, name, data.clone());
                }
            }
        }
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, _: &Device) -> Option<Self> {
        let within = join_path(prefix, WITHIN);
        let steps = source.take_scalar(&within, STEPS)?.try_into().ok()?;
        let [first, second] = MOMENTS.map(|name| source.take_tensor(&within, name));
        Some(Self::Loaded { steps, moments: Box::new([first?, second?]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves<S: RecordState>(state: &S) -> Vec<(String, Option<TensorData>, String)> {
        let mut sink = StateSink::default();
        state.state_flatten("7", &mut sink);
        let tensors = sink.tensors.into_iter().map(|(name, data)| (name, Some(data), String::new()));
        let scalars = sink.scalars.into_iter().map(|(name, value)| (name, None, format!("{value:?}")));
        tensors.chain(scalars).collect()
    }

    #[test]
    fn records_are_those_of_burns_state_before_and_after_they_are_on_a_device() {
        let device = Device::flex();
        let of = |value: f32| Tensor::<2>::full([2, 3], value, &device);
        let state = AdamWState::new(AdaptiveMomentumState::new(5, of(0.5), of(0.25)));
        let expected = leaves(&state);
        assert_eq!(expected.len(), 3);
        assert_eq!(leaves(&Moments::from(state.clone())), expected);

        let mut sink = StateSink::default();
        state.state_flatten("7", &mut sink);
        let mut source = StateSource::new(sink.scalars.into_iter().collect());
        for (name, data) in sink.tensors {
            source.insert_tensor(name, data);
        }
        assert!(Moments::<2>::state_unflatten("8", &mut source, &device).is_none(), "of another parameter");
        let loaded = Moments::<2>::state_unflatten("7", &mut source, &device).unwrap();
        assert!(matches!(loaded, Moments::Loaded { steps: 5, .. }), "it is on no device");
        assert_eq!(leaves(&loaded), expected);
        assert_eq!(leaves(&loaded.on(&device)), expected);
    }
}
