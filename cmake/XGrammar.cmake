# The xgrammar core (structured outputs), built from its source package, which scripts/fetch_xgrammar.sh puts into
# ATOM_XGRAMMAR_DIR. Its own CMake files are not used: they force Python bindings and link-time optimisation. Its
# logging header is replaced (atom/structured_output/xgrammar_logging.h says why), its sources are not changed.
set(ATOM_XGRAMMAR_DIR ${PROJECT_SOURCE_DIR}/third_party/xgrammar-0.2.8 CACHE PATH "Source package of xgrammar 0.2.8")
set(ATOM_WITH_XGRAMMAR AUTO CACHE STRING "Structured outputs: ON, OFF (refused by name) or AUTO: on when the package is there")
# Off: half the time of a sanitizer's build, and what the preset cpu compiled is found in the cache.
option(ATOM_SANITIZE_XGRAMMAR "With ATOM_SANITIZE: instrument the grammar library too" OFF)
# A glob, so that a build folder notices when the package comes or goes.
file(GLOB xgrammar_found CONFIGURE_DEPENDS ${ATOM_XGRAMMAR_DIR}/cpp/grammar_compiler.cc)
if(ATOM_WITH_XGRAMMAR STREQUAL "AUTO")
  set(with_xgrammar OFF)
  if(xgrammar_found)
    set(with_xgrammar ON)
  endif()
else()
  set(with_xgrammar ${ATOM_WITH_XGRAMMAR})
endif()

if(with_xgrammar)
  if(NOT xgrammar_found)
    message(FATAL_ERROR "ATOM_WITH_XGRAMMAR is on, but ${ATOM_XGRAMMAR_DIR} is not there: scripts/fetch_xgrammar.sh")
  endif()
  file(GLOB_RECURSE sources ${ATOM_XGRAMMAR_DIR}/cpp/*.cc)
  list(FILTER sources EXCLUDE REGEX "/cpp/tvm_ffi/|/support/logging\\.cc$")
  add_library(xgrammar STATIC ${sources})
  target_include_directories(xgrammar SYSTEM PUBLIC ${ATOM_XGRAMMAR_DIR}/include
    ${ATOM_XGRAMMAR_DIR}/3rdparty/picojson ${ATOM_XGRAMMAR_DIR}/3rdparty/dlpack/include ${ATOM_XGRAMMAR_DIR}/cpp)
  target_compile_definitions(xgrammar PRIVATE XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_ENABLE_INTERNAL_CHECK=0)
  target_compile_options(xgrammar PRIVATE -w -ffunction-sections -fdata-sections -fstack-protector-strong
    -include ${PROJECT_SOURCE_DIR}/atom/structured_output/xgrammar_logging.h)
  set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
  target_compile_definitions(xgrammar PRIVATE _GLIBCXX_ASSERTIONS)
  if(ATOM_SANITIZE_XGRAMMAR)
    target_compile_options(xgrammar PRIVATE ${sanitizer_options})
  endif()
endif()
message(STATUS "Structured outputs (xgrammar): ${with_xgrammar}")
