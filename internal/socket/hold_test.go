package socket

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

func TestHold(t *testing.T) {
	name := "drover-test-" + uuid.NewString()
	first, err := Hold(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Hold(t.Context(), name)
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("a second one got %v, want that this process has it", err)
	}
	other, err := Hold(t.Context(), name+"-other")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := Hold(t.Context(), name)
	if err != nil {
		t.Fatalf("after it was let go: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
