//! What people look at: grids, strips, animations, pages.

pub mod animation;
pub mod canvas;
pub mod curves;
pub mod dashboard;
pub mod grid;
pub mod page;
pub mod plot;
pub mod screen;
pub mod words;
