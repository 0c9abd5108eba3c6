//! Streams, events, and graphs that are recorded from streams.

use std::ffi::{c_int, c_uint};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{
    CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, Capture, INVALID_VALUE, REPLAYED, RUN, Run, STARTED, SUCCESS,
    Status, Work, set, state,
};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> Status {
    let mut state = state();
    state.next_stream += 0x10;
    unsafe { set(stream, state.next_stream) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut usize,
    flags: c_uint,
    _priority: c_int,
) -> Status {
    unsafe { cuStreamCreate(stream, flags) }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> Status {
    let mut state = state();
    state.count("synchronisations");
    if let Some(capture) = &mut state.capture
        && capture.stream == stream
    {
        capture.broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    state.sticky
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) -> Status {
    let mut state = state();
    if state.capture.is_some() {
        return CAPTURE_UNSUPPORTED;
    }
    state.count("captures begun");
    state.capture = Some(Capture { stream, works: Vec::new(), broken: false });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: usize, answer: *mut c_int) -> Status {
    let state = state();
    unsafe {
        set(answer, c_int::from(state.capture.as_ref().is_some_and(|capture| capture.stream == stream)))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> Status {
    let mut state = state();
    let Some(capture) = state.capture.take_if(|capture| capture.stream == stream) else {
        return CAPTURE_INVALIDATED;
    };
    if capture.broken {
        unsafe { set(graph, 0) };
        return CAPTURE_INVALIDATED;
    }
    state.count("captures ended");
    unsafe { set(graph, Box::into_raw(Box::new(Arc::new(capture.works))) as usize) }
}

type Works = Arc<Vec<Work>>;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize) -> Status {
    let works = unsafe { &*(graph as *const Works) };
    if nodes.is_null() {
        return unsafe { set(count, works.len()) };
    }
    let room = unsafe { *count }.min(works.len());
    for (i, work) in works.iter().enumerate().take(room) {
        unsafe { nodes.add(i).write(work as *const Work as usize) };
    }
    unsafe { set(count, room) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphNodeGetType(node: usize, kind: *mut c_int) -> Status {
    let number = match unsafe { &*(node as *const Work) } {
        Work::Launch(_) | Work::Product(_) => 0,
        Work::Copy { .. } => 1,
        Work::Fill { .. } => 2,
        Work::Memory => 10,
    };
    unsafe { set(kind, number) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, _flags: u64) -> Status {
    let works = unsafe { &*(graph as *const Works) }.clone();
    state().count("graphs");
    unsafe { set(exec, Box::into_raw(Box::new(works)) as usize) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: usize) -> Status {
    drop(unsafe { Box::from_raw(graph as *mut Works) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(exec: usize) -> Status {
    drop(unsafe { Box::from_raw(exec as *mut Works) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(exec: usize, _stream: usize) -> Status {
    let works = unsafe { &*(exec as *const Works) }.clone();
    let mut state = state();
    state.count("replays");
    if state.capture.is_some() {
        return CAPTURE_UNSUPPORTED;
    }
    for work in works.iter() {
        if matches!(work, Work::Launch(_) | Work::Product(_)) {
            REPLAYED.fetch_add(1, Ordering::Relaxed);
        }
        let status = state.perform(work);
        if status != SUCCESS {
            return status;
        }
    }
    SUCCESS
}

type Event = Mutex<Option<Instant>>;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut usize, _flags: c_uint) -> Status {
    unsafe { set(event, Box::into_raw(Box::new(Mutex::new(None::<Instant>))) as usize) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: usize, stream: usize) -> Status {
    let mut state = state();
    state.count("events recorded");
    if let Some(capture) = &state.capture
        && capture.stream == stream
    {
        state.count("events recorded while capturing");
        return SUCCESS;
    }
    let event = unsafe { &*(event as *const Event) };
    let now = if *RUN != Run::OneBlock {
        Instant::now()
    } else {
        *STARTED + std::time::Duration::from_nanos(state.clock)
    };
    *event.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    state.sticky
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(event: usize) -> Status {
    let state = state();
    let event = unsafe { &*(event as *const Event) };
    if state.capture.is_some() && event.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
        return 907; // a captured event
    }
    state.sticky
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: usize) -> Status {
    drop(unsafe { Box::from_raw(event as *mut Event) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) -> Status {
    let [start, end] = [start, end]
        .map(|event| *unsafe { &*(event as *const Event) }.lock().unwrap_or_else(PoisonError::into_inner));
    let (Some(start), Some(end)) = (start, end) else { return INVALID_VALUE };
    unsafe { set(milliseconds, end.saturating_duration_since(start).as_secs_f32() * 1e3) }
}
