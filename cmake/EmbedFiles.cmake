# Compiles files into a library: atom_embed(target file...) writes a source that defines
#   namespace atom::embedded { extern const std::string_view <base name with _ for .>; }
# for every file, declared by hand where they are used. Files are read again when they change.
function(atom_embed target)
  set(source ${PROJECT_BINARY_DIR}/embedded/${target}.cpp)
  set(text "// Made by cmake/EmbedFiles.cmake.\n#include <string_view>\nnamespace atom::embedded {\n")
  foreach(file IN LISTS ARGN)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${file})
    get_filename_component(name ${file} NAME)
    string(MAKE_C_IDENTIFIER ${name} name)
    file(READ ${PROJECT_SOURCE_DIR}/${file} bytes HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
    string(APPEND text "static constexpr char ${name}_bytes[] = {${bytes}};\n"
      "extern const std::string_view ${name};\n"
      "constinit const std::string_view ${name}{${name}_bytes, sizeof(${name}_bytes)};\n")
  endforeach()
  string(APPEND text "}  // namespace atom::embedded\n")
  file(CONFIGURE OUTPUT ${source} CONTENT "@text@" @ONLY)
  target_sources(${target} PRIVATE ${source})
endfunction()
