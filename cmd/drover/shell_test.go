package main

import (
	"os"
	"strings"
	"testing"

	"github.com/droverhq/drover/cmd/drover/internal/stores"
)

// TestDocsShowTheQuestionOfRecover: docs/operations.md shows the word that drover store recover asks for.
func TestDocsShowTheQuestionOfRecover(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nType " + stores.RecoverWord + " to continue: " + stores.RecoverWord + "\n"; !strings.Contains(string(page), want) {
		t.Errorf("docs/operations.md lacks %q", want)
	}
}
