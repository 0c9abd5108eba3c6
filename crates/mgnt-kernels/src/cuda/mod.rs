//! The kernels. `cube` has them all as `mgnt-model` calls them, each an operation of a backend. `passes` declares those of a decode
//! to Burn, with and without fusion, and `between_steps` what a training does between two of its steps; `shared`, `learned`,
//! `dense_on_tape` and `table_on_tape` those that a tape knows, `gradients` backward passes of theirs; `library` asks cuBLASLt; the
//! other modules hold the kernels, in CubeCL.

mod attend;
mod between_steps;
mod columns;
mod cube;
mod decide;
mod dense;
mod dense_on_tape;
mod draw;
mod dropped;
mod embed;
mod entropy;
mod flash;
mod gelu;
mod gradients;
mod heads;
mod learned;
mod library;
mod norm;
mod norm_back;
mod norm_on_tape;
mod passes;
mod product;
mod rows;
mod shared;
mod stack;
mod table_back;
mod table_on_tape;
mod update;

pub use cube::on;
pub use library::library;
