# End-to-end tests of the program, tests/cli/*_test.py: Python's standard library only.
file(GLOB PHASOR_CLI_TESTS CONFIGURE_DEPENDS tests/cli/*_test.py)
foreach(script ${PHASOR_CLI_TESTS})
  get_filename_component(name ${script} NAME_WE)
  string(REGEX REPLACE "_test$" "" name ${name})
  add_test(NAME cli.${name} COMMAND ${PHASOR_PYTHON} ${script} $<TARGET_FILE:phasor_cli>)
  # Those named *_slow_test.py need the default model.
  if(name MATCHES "_slow$")
    set_tests_properties(cli.${name} PROPERTIES LABELS slow TIMEOUT 600)
  else()
    set_tests_properties(cli.${name} PROPERTIES LABELS cli TIMEOUT 600)
  endif()
endforeach()
