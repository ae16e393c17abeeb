// Instruction-set levels: what this machine offers and which level the ops run at.
#pragma once

#include <string>

namespace pyllm {

// A level is a cap. Each contains the one below it on its architecture: scalar < avx2 < avx512 < amx, scalar
// < neon.
enum class Isa { scalar, avx2, avx512, amx, neon };

const char* isa_name(Isa isa);

// Throws std::invalid_argument for a name that is no level.
Isa parse_isa(const std::string& name);

// The highest level the processor and the operating system grant (XTILEDATA is asked for once; refusal means
// no amx).
Isa machine_isa();

// What a level leaves open, probed inside it.
enum class Extension { avx_vnni, avx512_vnni, avx512_bf16, amx };
constexpr Extension kExtensions[] = {Extension::avx_vnni, Extension::avx512_vnni, Extension::avx512_bf16,
                                     Extension::amx};
const char* extension_name(Extension extension);
bool machine_has(Extension extension);

// True if ops can be told to run at `isa` on this machine.
bool machine_supports(Isa isa);

// The level ops run at: PYLLM_ISA if set, otherwise machine_isa(). Throws std::runtime_error, which names the
// variable, if PYLLM_ISA is unknown or higher than the machine offers.
Isa active_isa();

// Overrides the level for this process (tests and benchmarks); same errors as active_isa().
void force_isa(const std::string& name);

}  // namespace pyllm
