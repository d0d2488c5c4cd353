package docs

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The test depends on how it reads a page.
func TestParse(t *testing.T) {
	const text = "Words with `$ not` a command.\n\n" +
		"<!-- test: setup=db prefix=f23ca986:db -->\n\n" +
		"```console\n$ drover doctor\ndrover: not well\n# a remark\n$ docker run \\\n    --name x\n```\n\n" +
		"    # indented\n    $ drover volume ls\n    NAME\n\n    $ drover version\n\nEnd.\n" +
		"<!-- test: not run, because nobody has it here -->\n\n```console\n$ make coffee\n```\n" +
		"<!-- test: file=/x -->\n```yaml\na: b\n```\n" +
		"1. Of a list:\n\n   <!-- test: setup=none -->\n   ```console\n   $ drover ca init\n   made\n   ```\n\n2. More.\n"
	p, err := parse("p.md", text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range p.blocks {
		got = append(got, b.language+" "+b.note.notRun)
		for _, c := range b.commands() {
			got = append(got, "$ "+c.text+" => "+strings.Join(c.shown, "|"))
		}
	}
	want := []string{
		"console ", "$ drover doctor => drover: not well", "$ docker run  --name x => ",
		"console ", "$ drover volume ls => NAME", "$ drover version => ",
		"console nobody has it here", "$ make coffee => ",
		"yaml ",
		"console ", "$ drover ca init => made",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if v, ok := p.blocks[0].note.get("prefix"); v != "f23ca986:db" || !ok {
		t.Errorf("prefix: %q, %t", v, ok)
	}
	if line := p.blocks[0].commands()[0].line; line != 6 {
		t.Errorf("the first command is on line 6, not %d", line)
	}
}

// Blocks that nothing would run, or that mean nothing, are refused.
func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"$ drover doctor\n",
		"```sh\n$ drover doctor\n```\n",
		"```console\n$ drover doctor\n",
		"1. In a list\n\n   $ drover doctor\n",
		"<!-- test: not run -->\n\n```console\n$ x\n```\n",
		"<!-- test: not run, because no -->\n\n```console\n$ x\n```\n",
		"<!-- test: setpu=db -->\n\n```console\n$ x\n```\n",
		"<!-- test: setup=db -->\n\nText first.\n\n```console\n$ x\n```\n",
		"<!-- test: setup=db -->\n<!-- test: setup=db -->\n```console\n$ x\n```\n",
	} {
		if _, err := parse("p.md", text); err == nil {
			t.Errorf("taken: %q", text)
		}
	}
}
