# The sites: the generator and its tables, libweft-sites.so, and what libweft gets.
#
# Sets WEFT_SITES_SOURCES (add them to libweft; they are written for
# -ffreestanding -mgeneral-regs-only and call nothing outside) and defines the
# targets weft_sitegen (the generator), weft_site_tables (what it makes: depend on it)
# and weft_sites (libweft-sites.so). The project has to enable C and ASM.

set(_sites ${CMAKE_CURRENT_LIST_DIR})
get_filename_component(_root ${_sites} DIRECTORY)

find_path(ZYDIS_INCLUDE_DIR Zydis/Zydis.h REQUIRED)
find_library(ZYDIS_LIBRARY Zydis REQUIRED)

# The libc and the loader that programs of this machine run with, by the compiler's
# search path; a bare name means that it does not know.
function(weft_find_dso name fallback ret)
	separate_arguments(flags NATIVE_COMMAND "${CMAKE_C_FLAGS}")
	execute_process(
		COMMAND ${CMAKE_C_COMPILER} ${flags} -print-file-name=${name}
		OUTPUT_VARIABLE path OUTPUT_STRIP_TRAILING_WHITESPACE)
	if(NOT IS_ABSOLUTE "${path}" OR NOT EXISTS "${path}")
		set(path ${fallback})
	endif()
	if(NOT EXISTS "${path}")
		message(FATAL_ERROR "${name} not found; set ${ret}")
	endif()
	file(REAL_PATH "${path}" path)
	set(${ret} "${path}" CACHE FILEPATH "the ${name} the compiled-in sites are of")
endfunction()
if(NOT WEFT_LIBC)
	weft_find_dso(libc.so.6 /lib/x86_64-linux-gnu/libc.so.6 WEFT_LIBC)
endif()
if(NOT WEFT_LDSO)
	weft_find_dso(ld-linux-x86-64.so.2 /lib64/ld-linux-x86-64.so.2 WEFT_LDSO)
endif()

# Libraries that wait in the kernel by themselves, where the machine has them.
set(WEFT_OTHER_DSOS)
foreach(_name liburing.so.2 libgomp.so.1)
	execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=${_name}
		OUTPUT_VARIABLE _path OUTPUT_STRIP_TRAILING_WHITESPACE)
	if(IS_ABSOLUTE "${_path}" AND EXISTS "${_path}")
		file(REAL_PATH "${_path}" _path)
		list(APPEND WEFT_OTHER_DSOS ${_path})
	endif()
endforeach()

set(_finder site_finder.c finder_image.c finder_unwind.c finder_decode.c finder_live.c)
list(TRANSFORM _finder PREPEND ${_sites}/)
add_executable(weft_sitegen ${_sites}/sitegen.c ${_finder})
set_target_properties(weft_sitegen PROPERTIES OUTPUT_NAME weft-sitegen)
add_library(weft_sites MODULE ${_sites}/sites_plugin.c ${_finder})
set_target_properties(weft_sites PROPERTIES OUTPUT_NAME weft-sites
	C_VISIBILITY_PRESET hidden)
target_link_options(weft_sites PRIVATE -Wl,-z,now,-z,relro)
foreach(_target weft_sitegen weft_sites)
	target_compile_features(${_target} PRIVATE c_std_11)
	target_compile_options(${_target} PRIVATE -std=gnu11 -Wall -Wextra)
	target_include_directories(${_target} PRIVATE ${_root})
	target_include_directories(${_target} SYSTEM PRIVATE ${ZYDIS_INCLUDE_DIR})
	target_link_libraries(${_target} PRIVATE ${ZYDIS_LIBRARY})
endforeach()

set(WEFT_SITE_TABLES ${CMAKE_CURRENT_BINARY_DIR}/site_tables.c)
add_custom_command(OUTPUT ${WEFT_SITE_TABLES}
	COMMAND weft_sitegen ${WEFT_SITE_TABLES} ${WEFT_LIBC} ${WEFT_LDSO}
		${WEFT_OTHER_DSOS}
	DEPENDS weft_sitegen ${WEFT_LIBC} ${WEFT_LDSO} ${WEFT_OTHER_DSOS}
	COMMENT "Finding the syscall sites of ${WEFT_LIBC}" VERBATIM)
# One rule, also when several targets (of other directories) use the file.
add_custom_target(weft_site_tables DEPENDS ${WEFT_SITE_TABLES})

set(WEFT_SITES_SOURCES ${_sites}/sites.c ${_sites}/thunk_area.S ${WEFT_SITE_TABLES})
