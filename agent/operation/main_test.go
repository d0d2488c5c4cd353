package operation

import (
	"os"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }
