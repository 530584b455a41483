# The launcher: target weft_cmd, the program `weft`, beside libweft.so at the top of the
# build folder, and its man page. Included once, from any CMakeLists.txt of the project.
#
# Reads PROJECT_VERSION, WEFT_WERROR, and WEFT_INSTALL_LIBDIR: where libweft.so is
# installed to, relative to the prefix. Whoever installs the library uses that variable
# too, so that the launcher finds it.
include(GNUInstallDirs)
set(WEFT_INSTALL_LIBDIR "${CMAKE_INSTALL_LIBDIR}" CACHE STRING
	"Where libweft.so is installed, relative to the prefix")

add_executable(weft_cmd
	${CMAKE_CURRENT_LIST_DIR}/launcher.c
	${CMAKE_CURRENT_LIST_DIR}/elfcheck.c
	${CMAKE_CURRENT_LIST_DIR}/options.c)
set_target_properties(weft_cmd PROPERTIES
	OUTPUT_NAME weft
	RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}
	C_STANDARD 11
	C_STANDARD_REQUIRED ON
	C_EXTENSIONS ON)
target_compile_options(weft_cmd PRIVATE
	-Wall -Wextra -Wconversion -Wshadow
	$<$<BOOL:${WEFT_WERROR}>:-Werror>)

# To ninja "weft" is the launcher's file, which shadows the library target of that name:
# `ninja weft` must bring both. Deferred, as the library may be defined later.
function(weft_cmd_after_library)
	if(TARGET weft)
		add_dependencies(weft_cmd weft)
	endif()
endfunction()
cmake_language(DEFER DIRECTORY ${PROJECT_SOURCE_DIR} CALL weft_cmd_after_library)

# The way from the installed launcher to the library, so that a prefix can be moved.
set(weft_full_libdir "${WEFT_INSTALL_LIBDIR}")
cmake_path(ABSOLUTE_PATH weft_full_libdir BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}" NORMALIZE)
file(RELATIVE_PATH weft_bin_to_lib "${CMAKE_INSTALL_FULL_BINDIR}" "${weft_full_libdir}")
target_compile_definitions(weft_cmd PRIVATE
	_GNU_SOURCE
	WEFT_VERSION="${PROJECT_VERSION}"
	WEFT_DOCDIR="${CMAKE_INSTALL_FULL_DOCDIR}"
	"WEFT_LIBRARY_FOLDERS=\"${weft_bin_to_lib}/weft\",\"${weft_bin_to_lib}\",")

# The launcher writes its man page: docs/weft.1.in with the option table filled in.
set(weft_man_template ${CMAKE_CURRENT_LIST_DIR}/../docs/weft.1.in)
set(weft_man ${PROJECT_BINARY_DIR}/weft.1)
add_custom_command(OUTPUT ${weft_man}
	COMMAND weft_cmd --man ${weft_man_template} ${weft_man}
	DEPENDS weft_cmd ${weft_man_template}
	COMMENT "Writing weft.1"
	VERBATIM)
add_custom_target(weft_man ALL DEPENDS ${weft_man})

install(TARGETS weft_cmd RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${weft_man} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
