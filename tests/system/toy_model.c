// toy_model DIR: writes a model folder with random weights (toy_folder.h), for the tests with real
// processes.
#include "tests/toy_folder.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    toy_folder(argv[1], 1);
    return 0;
}
