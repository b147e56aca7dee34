include(${CMAKE_CURRENT_LIST_DIR}/narsilDependencies.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/narsilTargets.cmake)
