//! Products by NVIDIA's cuBLASLt, where a machine has it: its kernels use what CubeCL has no operations for yet (`wgmma`, Hopper's
//! products of four warps), and add a bias and take a gelu before they write.
//!
//! The library is loaded at run time, and asked on CubeCL's own stream, in its order and within its graphs. Where it is not
//! there, has no kernel, or `MGNT_CUBLAS=0` says so, products are CubeCL's.

mod lt;

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use burn_cubecl::cubecl::device::DeviceId;
use burn_cubecl::cubecl::device_handle::DeviceHandle;
use burn_cubecl::cubecl::server::{Handle, Server, ServerError, ServerStorage};
use burn_cubecl::tensor::CubeTensor;
use cubecl_cuda::CudaRuntime;
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::dry_run::launch_mode;
use cubecl_server::logging::ProfileLevel;
use cubecl_server::runtime::Runtime;
use cubecl_server::server::BufferBinding;
use cubecl_server::stream::{ExecuteScope, WriteScoped, failed_writing};
use cudarc::cublaslt::{result::CublasError, sys};

use crate::layout::{self, Layout, View, alignment};
use lt::{Chosen, Places, Product};

pub use lt::Then;

type Cuda = <CudaRuntime as Runtime>::Server;

/// The most that the library asks for; CubeCL's allocations have twice as much.
const ALIGNMENT: u64 = 256;

/// Set where the library is there, but does not work with the driver or the card: asked again, it would say so again.
static DOES_NOT_WORK: AtomicBool = AtomicBool::new(false);

/// Whether products go to it.
pub fn is_there() -> bool {
    static IS_THERE: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: a library of NVIDIA's is loaded, which does nothing until it is called.
        std::env::var_os("MGNT_CUBLAS").is_none_or(|value| value != "0") && unsafe { sys::is_culib_present() }
    });
    *IS_THERE && !DOES_NOT_WORK.load(Ordering::Relaxed)
}

/// The library by name and version, where products on a CUDA device, by its number, go to it.
pub fn library(device: u16) -> Option<String> {
    let asked = || {
        let of_device = DeviceHandle::<Cuda>::new(DeviceId::new(0, device));
        let stream = StreamId::current();
        let works = of_device.submit_blocking(move |server| {
            // For the context, which it makes the thread's.
            server.flush(stream).is_ok()
                && LIBRARY.with_borrow_mut(|library| Library::handle(&mut library.handle).is_ok())
        });
        works.unwrap_or(false)
    };
    if !is_there() || !asked() {
        return None;
    }
    // SAFETY: it is there.
    let version = unsafe { sys::cublasLtGetVersion() };
    Some(format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// The product of `a [.., m, k]` and `b [.., k, n]` into `out [.., m, n]`, with what is done then; `false` where the library is not
/// there or does not take these.
pub fn multiply(a: &CubeTensor, b: &CubeTensor, out: &CubeTensor, then: Then<CubeTensor>) -> bool {
    let service = a.client.service_id();
    if !is_there() || service.service != TypeId::of::<Cuda>() || a.dtype != b.dtype {
        return false;
    }
    let Some(layout) = Layout::new(seen(a), seen(b), seen(out)) else { return false };
    let aligned = [b, a, out].map(|tensor| alignment(tensor.handle.offset_start.unwrap_or(0), ALIGNMENT));
    let bias = then.bias().map(|bias| bias.handle.clone());
    let bias_aligned =
        bias.as_ref().map_or(ALIGNMENT, |bias| alignment(bias.offset_start.unwrap_or(0), ALIGNMENT));
    let product =
        Product { layout, of: a.dtype, into: out.dtype, then: then.map(drop), aligned, bias_aligned };
    let Some(workspace) = chosen(service.device, product) else { return false };
    let workspace = (workspace > 0).then(|| a.client.empty(workspace));
    let [first, second, out] = [b, a, out].map(|tensor| tensor.handle.clone());
    submit(service.device, product, Places { first, second, out, bias, workspace });
    true
}

fn seen(tensor: &CubeTensor) -> View<'_> {
    View { shape: tensor.meta.shape(), strides: tensor.meta.strides() }
}

/// Products whose kernels are remembered. A decode asks for some hundred; a training's change with its number of masked tokens, and
/// would fill the memory.
const REMEMBERED: usize = 4096;

/// The library on a device, and what it chose. It lives on the device's thread, which alone calls it.
#[derive(Default)]
struct Library {
    handle: Option<lt::Handle>,
    chosen: HashMap<Product, Option<Chosen>>,
}

thread_local! {
    static LIBRARY: RefCell<Library> = RefCell::default();
}

impl Library {
    /// The library's own handle, made once.
    fn handle(handle: &mut Option<lt::Handle>) -> Result<&lt::Handle, CublasError> {
        Ok(match handle {
            Some(handle) => handle,
            none => none.insert(lt::Handle::new()?),
        })
    }

    /// The kernel of a product, chosen once; `None` where there is none.
    fn choose(&mut self, product: &Product) -> Result<(&lt::Handle, Option<&Chosen>), CublasError> {
        let handle = Self::handle(&mut self.handle)?;
        if self.chosen.len() >= REMEMBERED && !self.chosen.contains_key(product) {
            self.chosen.clear();
        }
        let chosen = match self.chosen.entry(*product) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Chosen::new(handle, product)?),
        };
        Ok((handle, chosen.as_ref()))
    }
}

type Workspaces = HashMap<(DeviceId, Product), Option<usize>>;

/// Bytes of workspace that a product's kernel takes; `None` where there is no kernel.
///
/// Asked of the device's thread once, which has to be waited for; the kernels themselves stay there, as [`LIBRARY`] says.
fn chosen(device: DeviceId, product: Product) -> Option<usize> {
    static CHOSEN: LazyLock<Mutex<Workspaces>> = LazyLock::new(Mutex::default);
    let known = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).get(&(device, product)).copied();
    if let Some(known) = known {
        return known;
    }
    let stream = StreamId::current();
    let asked = DeviceHandle::<Cuda>::new(device).submit_blocking(move |server| {
        // For the context, which it makes the thread's.
        server.flush(stream).map_err(|error| (false, error.to_string()))?;
        LIBRARY.with_borrow_mut(|library| match library.choose(&product) {
            Ok((_, chosen)) => Ok(chosen.map(Chosen::workspace)),
            Err(error) => {
                if lt::does_not_work(error) {
                    DOES_NOT_WORK.store(true, Ordering::Relaxed);
                }
                Err((lt::has_no_kernel(error), error.to_string()))
            }
        })
    });
    let workspace = match asked.unwrap_or_else(|error| Err((false, format!("{error:?}")))) {
        Ok(workspace) => workspace,
        Err((stays, error)) => {
            // Once is enough to say so; what may pass is asked again by the next product.
            static SAID: Once = Once::new();
            SAID.call_once(|| tracing::warn!("cuBLASLt: {error}; Burn computes {}", name(&product)));
            if !stays {
                return None;
            }
            None
        }
    };
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if chosen.len() >= REMEMBERED {
        chosen.clear();
    }
    chosen.insert((device, product), workspace);
    workspace
}

/// Asks for a product behind whatever was asked for before.
fn submit(device: DeviceId, product: Product, of: Places<Handle>) {
    // What a tuner only compiles is not run.
    if launch_mode().is_skipped() {
        return;
    }
    let stream = StreamId::current();
    let Ok(of) = of.try_map(|handle| Ok::<_, Infallible>(handle.binding()));
    DeviceHandle::<Cuda>::new(device).submit(move |server| run(server, &product, of, stream));
}

/// On the device's thread.
fn run(server: &mut Cuda, product: &Product, of: Places<BufferBinding>, stream: StreamId) {
    let written: Vec<_> = [Some(&of.out), of.workspace.as_ref()].into_iter().flatten().cloned().collect();
    let held = match of.clone().try_map(|binding| server.get_resource(binding, stream)) {
        Ok(held) => held,
        Err(error) => return failed_writing(server, stream, written, error),
    };
    let Ok(places) = held.try_map(|held| Ok::<_, Infallible>(held.resource().ptr));
    if let Some(capture) = server.capturing(stream) {
        // A graph that is recorded replays against this memory, as against that of CubeCL's own launches.
        for binding in of.all() {
            capture.touch(binding.stream, binding.memory.descriptor().location());
        }
    }
    let asked = |server: &mut Cuda| {
        let Some(queue) = server.write_streams().try_stream_mut(&stream).map(|stream| stream.sys) else {
            return Err(failed("the stream is gone"));
        };
        LIBRARY.with_borrow_mut(|library| {
            let (handle, chosen) = library.choose(product).map_err(|error| failed(&error.to_string()))?;
            let Some(chosen) = chosen else { return Err(failed("the product has no kernel any more")) };
            // SAFETY: sizes, types and alignments are those of the tensors; their memory is this scope's, and the stream of its context.
            unsafe { chosen.run(handle, &places, queue.cast()) }.map_err(|error| failed(&error.to_string()))
        })
    };
    let level = server.logger().profile_level();
    let timed = match level {
        None => None,
        Some(ProfileLevel::ExecutionOnly) => {
            server.logger().register_execution(name(product));
            None
        }
        Some(_) => server.start_profile(stream).ok(),
    };
    ExecuteScope::over(server, stream, written.clone()).execute(asked);
    if let Some(token) = timed
        && let Ok(duration) = server.end_profile(stream, token)
    {
        server.logger().register_profiled(name(product), duration);
    }
    // Another stream's memory is kept until what was asked of this one has been done.
    let foreign = of.all().filter(|binding| binding.stream != stream);
    let resolved = server.write_streams().resolve(stream, foreign).map(drop);
    if let Err(error) = resolved {
        failed_writing(server, stream, written, error);
    }
}

/// As a profile lists it: rows, inner dimension and columns of the tensors, and how many there are.
fn name(product: &Product) -> String {
    let Layout { first, second, out, batch } = product.layout;
    let inner = if first.is_turned { first.matrix.rows } else { first.matrix.columns };
    let turned = |operand: layout::Operand| if operand.is_turned { "'" } else { "" };
    format!(
        "cublasLt {} {}{} x {inner} x {}{} ({batch}) to {}, {:?}",
        product.of.name(),
        out.columns,
        turned(second),
        out.rows,
        turned(first),
        product.into.name(),
        product.then,
    )
}

fn failed(why: &str) -> ServerError {
    ServerError::Generic { reason: format!("cuBLASLt: {why}"), backtrace: BackTrace::capture() }
}
