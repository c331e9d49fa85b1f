# cmake -DGIT=... -DSOURCE=... -DREPOSITORY=... -DTAG=... -P make_repository.cmake: a repository of what FetchContent
# needs of the source tree, so that fetching can be tested without a network.
file(REMOVE_RECURSE "${REPOSITORY}")
file(COPY "${SOURCE}/include" "${SOURCE}/.cmake" "${SOURCE}/CMakeLists.txt" DESTINATION "${REPOSITORY}")
set(anyone -c user.name=test -c user.email=test@localhost -c commit.gpgsign=false)
foreach(arguments "init;--quiet" "add;--all" "${anyone};commit;--quiet;--message=Snapshot" "tag;${TAG}")
  execute_process(COMMAND "${GIT}" ${arguments} WORKING_DIRECTORY "${REPOSITORY}" RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "git ${arguments}: ${status}")
  endif()
endforeach()
