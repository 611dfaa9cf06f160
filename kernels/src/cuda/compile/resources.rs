//! What a kernel takes of the chip, read from the compiler's log.

/// Registers, memory and barriers of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// The kernel's name in the cubin.
    pub kernel: String,
    /// Of one thread.
    pub registers: u32,
    /// Of one thread: arrays that registers do not hold.
    pub stack_bytes: u32,
    /// Of one thread: what is written to memory because registers ran out.
    pub spill_stores_bytes: u32,
    /// Of one thread: what is read back.
    pub spill_loads_bytes: u32,
    /// Of one block, without what is asked for at launch.
    pub shared_bytes: u32,
    /// Of one block.
    pub barriers: u32,
}

impl Resources {
    /// The resources of each kernel in a log of `--ptxas-options=-v`, in order of the log.
    pub(super) fn parse(log: &str) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        // Functions that are called and not inlined have lines of their own, which belong to no kernel.
        let mut function = "";
        for line in log.lines() {
            if let Some(name) = quoted_after(line, "Compiling entry function") {
                found.push(Self { kernel: name.to_string(), ..Self::default() });
            } else if let Some((_, name)) = line.split_once("Function properties for ") {
                function = name.trim();
            } else if let Some(kernel) = found.last_mut() {
                if let Some(bytes) = number_before(line, " bytes stack frame").filter(|_| function == kernel.kernel) {
                    kernel.stack_bytes = bytes;
                    kernel.spill_stores_bytes = number_before(line, " bytes spill stores").unwrap_or_default();
                    kernel.spill_loads_bytes = number_before(line, " bytes spill loads").unwrap_or_default();
                } else if let Some(registers) = number_before(line, " registers") {
                    kernel.registers = registers;
                    kernel.barriers = number_before(line, " barriers").unwrap_or_default();
                    kernel.shared_bytes = number_before(line, " bytes smem").unwrap_or_default();
                }
            }
        }
        found
    }
}

fn quoted_after<'a>(line: &'a str, phrase: &str) -> Option<&'a str> {
    line.split_once(phrase)?.1.split('\'').nth(1)
}

/// The number that stands right before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let (before, _) = line.split_once(unit)?;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as NVRTC 13.0 writes them, with a function that is called between the two kernels' lines.
    const LOG: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'attention_forward' for 'sm_90a'
ptxas info    : Function properties for attention_forward
ptxas         .     48 bytes stack frame, 40 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 168 registers, used 2 barriers, 48 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 3.181 ms
ptxas info    : Function properties for rounded
ptxas         .     8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function 'scale' for 'sm_90a'
ptxas info    : Function properties for scale
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compile time = 2.782 ms
";

    #[test]
    fn a_log_names_what_each_kernel_takes() {
        let attention = Resources {
            kernel: "attention_forward".into(),
            registers: 168,
            stack_bytes: 48,
            spill_stores_bytes: 40,
            spill_loads_bytes: 44,
            shared_bytes: 1024,
            barriers: 2,
        };
        let scale = Resources { kernel: "scale".into(), registers: 8, ..Resources::default() };
        assert_eq!(Resources::parse(LOG), [attention, scale]);
        assert_eq!(Resources::parse("t.cu(3): error: identifier \"x\" is undefined"), []);
    }
}
