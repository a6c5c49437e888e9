# `make install`: program, library, headers and the CMake package (find_package(phasor)).
include(CMakePackageConfigHelpers)
install(TARGETS phasor EXPORT phasorTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET phasor_cli)
  install(TARGETS phasor_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY include/phasor DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/share)
  install(DIRECTORY share/phasor DESTINATION ${CMAKE_INSTALL_DATADIR})
endif()
install(DIRECTORY reproduce DESTINATION ${CMAKE_INSTALL_DATADIR}/phasor FILES_MATCHING
        PATTERN "*.json")
install(EXPORT phasorTargets NAMESPACE phasor:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/phasor)
configure_package_config_file(cmake/phasorConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/phasorConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/phasor)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/phasorConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/phasorConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/phasorConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/phasor)
