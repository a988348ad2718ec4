# An object compiled for one instruction set may export its table and nothing else: a weak symbol (an inline
# function of a standard header, say) could be kept by the linker for everyone, and crash older CPUs.
# Run as: cmake -DNM=... -DOBJECTS=a.o|b.o -P check_symbols.cmake
string(REPLACE "|" ";" OBJECTS "${OBJECTS}")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --extern-only --defined-only ${object} OUTPUT_VARIABLE symbols
                  RESULT_VARIABLE failed)
  # Data of AddressSanitizer, and the address of the C++ runtime's handler where it keeps cleanups: no instructions.
  string(REGEX REPLACE "[^\n]*(__odr_asan|DW\\.ref\\.__gxx_personality_v0)[^\n]*\n" "" symbols "${symbols}")
  string(REGEX MATCHALL "[^\n]+" lines "${symbols}")
  list(LENGTH lines count)
  if(failed OR NOT count EQUAL 1 OR NOT symbols MATCHES " [DR] [^\n]*qwick[^\n]*k[A-Z]")
    message(FATAL_ERROR "${object} must export one kernel table and nothing else, but has:\n${symbols}")
  endif()
endforeach()
