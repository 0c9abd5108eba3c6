//! A decode that is recorded once and replayed for batch after batch: one launch where the device has graphs.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use burn::tensor::{Graph, Int, Tensor, capture};
use mgnt_model::{KvCache, NestedTransformer};

use crate::decoder::logits;
use crate::resident::{Inputs, Resident, rows_of};
use crate::samples::Start;
use crate::{Decoder, Error, Plan};

/// A whole decode of one plan and batch size on a device, from random numbers to tokens.
///
/// A plan fixes every shape before the first iteration, so on a device with graphs (CUDA, wgpu) the launches of all
/// iterations are recorded, and a batch is one replay of them. A recording is kept only if, with other classes and another
/// seed, it gives the tokens of a decode without it; else, and on a device without graphs, each batch is decoded anew.
///
/// It stays on the thread that made it, whose stream the recording is of.
pub struct Recorded<'a> {
    model: &'a NestedTransformer,
    plan: &'a Plan,
    batch: usize,
    inputs: Rc<RefCell<Inputs<'a>>>,
    graph: Graph<Tensor<2, Int>, Box<dyn FnMut() -> Tensor<2, Int> + 'a>>,
    is_graph: bool,
    thread: PhantomData<*const ()>,
}

impl fmt::Debug for Recorded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded")
            .field("strategy", self.plan.strategy())
            .field("batch", &self.batch)
            .field("is_graph", &self.is_graph)
            .finish_non_exhaustive()
    }
}

impl<'a> Recorded<'a> {
    /// Records decodes of `batch` samples. `None` where the plan's order or top-p needs the host.
    ///
    /// That takes a handful of whole decodes to warm up, on a device without graphs as well. Fails where the model is on a
    /// device with a tape: [`valid`](burn::module::Module::valid) takes it off.
    pub fn new(model: &'a NestedTransformer, plan: &'a Plan, batch: usize) -> Result<Option<Self>, Error> {
        plan.check_model(model.config())?;
        if model.device().is_autodiff() {
            return Err(Error::field(
                "device",
                "one without a tape, as of `model.valid()`",
                "one with a tape",
            ));
        }
        let start = start(model, plan, vec![0; batch], 0, 0)?;
        let Some(inputs) = Inputs::new(model, plan, &start) else { return Ok(None) };
        let inputs = Rc::new(RefCell::new(inputs));
        let given = inputs.clone();
        let decode = move || decoded(model, plan, &given.borrow());
        let graph = capture(&model.device(), Box::new(decode) as Box<dyn FnMut() -> _ + 'a>);
        let is_graph = graph.is_hardware();
        let mut recorded = Self { model, plan, batch, inputs, graph, is_graph, thread: PhantomData };
        if is_graph {
            let classes: Vec<usize> =
                (0..batch).map(|row| (row + 1) % model.config().classes.max(1)).collect();
            let decoder = Decoder::new(model, plan).classes(&classes).seed(1).resident();
            let expected = decoder.run()?.tokens;
            recorded.is_graph = recorded.run(&classes, 1, 0).is_ok_and(|replayed| replayed == expected);
        }
        Ok(Some(recorded))
    }

    /// Whether batches are replays of a graph.
    pub fn is_graph(&self) -> bool {
        self.is_graph
    }

    /// Decodes as [`Decoder`] does; there must be a class for each sample.
    pub fn run(&mut self, classes: &[usize], seed: u64, first_sample: u64) -> Result<Vec<Vec<u16>>, Error> {
        if classes.len() != self.batch {
            return Err(Error::field("classes", format!("{}, as recorded", self.batch), classes.len()));
        }
        let start = start(self.model, self.plan, classes.to_vec(), seed, first_sample)?;
        let Some(inputs) = Inputs::new(self.model, self.plan, &start) else {
            return Err(Error::field("plan", "one for a device", "an order or top-p of the host"));
        };
        if !self.is_graph {
            return rows_of(decoded(self.model, self.plan, &inputs));
        }
        self.inputs.borrow_mut().overwrite(inputs);
        // SAFETY: what the closure reads is alive: the model is borrowed and the inputs are shared for as long as `self`.
        // Nothing writes them meanwhile: whoever else holds the model can only read its weights, and the inputs are this
        // value's own, which is borrowed mutably and cannot leave this thread; it also reads the tokens below.
        let raster = unsafe { self.graph.replay() };
        rows_of(raster.clone())
    }
}

fn start(
    model: &NestedTransformer,
    plan: &Plan,
    classes: Vec<usize>,
    seed: u64,
    first_sample: u64,
) -> Result<Start, Error> {
    Decoder::new(model, plan).classes(&classes).seed(seed).first_sample(first_sample).start()
}

/// Tokens in raster order, `[B, N]`. Nothing in it comes from the host but shapes and the plan's constants.
fn decoded(model: &NestedTransformer, plan: &Plan, inputs: &Inputs) -> Tensor<2, Int> {
    let mut samples = Resident::new(inputs);
    let mut cache: Option<KvCache> = None;
    for iteration in plan.iterations() {
        let logits = logits(model, iteration, &samples, &mut cache);
        samples.draw(logits, iteration);
    }
    samples.in_raster_order()
}
