//! NCCL on this machine, as far as one GPU shows it: a rank that is all there are sends to itself.

use osler_kernels::KernelError;
use osler_kernels::cuda::driver::Driver;
use osler_kernels::cuda::nccl::Nccl;
use osler_kernels::cuda::{Aside, Launcher, Transfer};
use std::path::PathBuf;

/// What a user calls it by.
pub const NAME: &str = "ranks";

/// Whether bytes arrive; also where there is no NCCL, which is said.
pub fn run(driver: &Driver, libraries: &[PathBuf]) -> bool {
    let nccl = match Nccl::open(libraries) {
        Ok(nccl) => nccl,
        Err(error) => {
            println!("SKIPPED {NAME}: {error}");
            return true;
        }
    };
    let arrived = arrives(driver, nccl);
    match &arrived {
        Ok(true) => println!("ok     {NAME}: one that sends to itself"),
        Ok(false) => println!("FAILED {NAME}: other bytes arrive than were sent"),
        Err(error) => println!("FAILED {NAME}: {error}"),
    }
    arrived == Ok(true)
}

/// A megabyte and a byte, sent in two pieces that arrive in order.
fn arrives(driver: &Driver, nccl: Nccl) -> Result<bool, KernelError> {
    const BYTES: usize = (1 << 20) + 1;
    let id = nccl.new_id()?;
    driver.join(nccl, id, (0, 1), || Ok::<_, KernelError>(()))?;
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let (mut from, to) = (driver.allocate(BYTES)?, driver.allocate(BYTES)?);
    driver.write(&mut from, 0, &sent)?;
    let [from_address, to_address] = [&from, &to].map(|memory| driver.address(memory));
    let pieces = [(0, 1), (1, BYTES - 1)];
    let both = pieces.map(|(at, bytes)| {
        [Transfer::Send { to: 0, address: from_address + at, bytes }, Transfer::Receive { from: 0, address: to_address + at, bytes }]
    });
    let broadcast = Transfer::Broadcast { root: 0, address: to_address, bytes: BYTES };
    driver.wait(driver.aside(&[Aside::Exchange(both.as_flattened().to_vec()), Aside::Exchange(vec![broadcast])])?)?;
    let mut got = vec![0; BYTES];
    driver.read(&to, 0, &mut got)?;
    Ok(got == sent)
}
