//! What the tests share: the emulator and the CPU twin side by side.

use osler_emulator::{Emulator, Order};
use osler_kernel_cases::{Visitor, Work};
use osler_kernels::Cpu;
use osler_kernels::cuda::Gpu;

/// Runs cases on the CPU in bf16 mode and on an emulated GPU, there in both orders of blocks and threads, which must give the same bits.
pub struct Emulated {
    pub wgmma: bool,
}

impl Visitor for Emulated {
    fn visit(&mut self, work: &impl Work) {
        let wanted = work.run(&Cpu::<f32>::bf16(1).unwrap());
        let bits = |order| {
            let got = work.run(&Gpu::new(Emulator { order, wgmma: self.wgmma }));
            (got.iter().map(|got| got.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>(), got)
        };
        let (forward, got) = bits(Order::Forward);
        assert!(forward == bits(Order::Backward).0, "{}: another order of threads gives other bits", work.name());
        if let Err(problem) = work.judge(&got, &wanted) {
            panic!("{}, wgmma {}: {problem}", work.name(), self.wgmma);
        }
    }
}
