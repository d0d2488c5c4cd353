package dir_test

import (
	"os"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
)

// The tests run in a separate mount namespace. Otherwise a process that the tests of another package start would copy
// their mounts and keep them in use.
func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }
