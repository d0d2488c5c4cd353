package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

type pasture struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Size    dataset.Size      `json:"size,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	Open    bool              `json:"open,omitempty"`
	Owner   string            `json:"owner"`
	Labels  map[string]string `json:"labels,omitempty"`
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pastures() []pasture {
	return []pasture{
		{ID: "bbbb2222", Name: "south", Size: 9 * dataset.GiB, Created: noon, Owner: "Ann", Labels: map[string]string{"team": "blue"}},
		{ID: "aaaa1111", Name: "north", Size: 10 * dataset.GiB, Created: noon.Add(-time.Hour), Open: true, Owner: "Bob", Labels: map[string]string{"team": "red", "hill": ""}},
		{ID: "cccc3333", Name: "east", Owner: "ann\x1b"},
	}
}

// lists runs an ls command of the pastures.
func lists(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	a := &App{Out: &out, ErrOut: &out, Getenv: func(string) string { return "" }, Now: func() time.Time { return noon.Add(time.Hour) }, Dial: func(string) (Remote, error) { return nil, nil }}
	id := func(p pasture) string { return p.ID }
	cmd := New(a, List[pasture]{
		Short: "List the pastures",
		Local: true,
		Fetch: func(*cobra.Command, ListQuery) ([]pasture, error) { return pastures(), nil },
		ID:    id,
		Columns: func([]pasture) []Column[pasture] {
			return []Column[pasture]{
				Volume("NAME", func(p pasture) string { return p.Name }),
				{Header: "SIZE", Cell: func(p pasture) string { return SizeOr(p.Size, "") }, Compare: By(func(p pasture) dataset.Size { return p.Size })},
				{Header: "STATE OF GATE", Cell: func(p pasture) string { return map[bool]string{true: "open", false: "closed"}[p.Open] }, Below: func(p pasture) string { return map[bool]string{true: "close it"}[p.Open] }},
				{Header: "OWNER", Cell: func(p pasture) string { return p.Owner }},
				Time(a, "CREATED", func(p pasture) time.Time { return p.Created }),
				{Header: "USE%", Wide: true, Cell: func(p pasture) string { return map[string]string{"south": "85%", "north": "7%"}[p.Name] }},
				{Header: "UUID", Wide: true, Cell: func(p pasture) string { return p.ID[:4] }, Whole: id},
			}
		},
		Compare: By(func(p pasture) string { return p.Name }),
		Labels:  OwnLabels(func(p pasture) map[string]string { return p.Labels }),
		Moment:  &Moment[pasture]{Of: func(p pasture) time.Time { return p.Created }, Verb: "made"},
	})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestSelectAndSort(t *testing.T) {
	for _, tc := range []struct{ args, names string }{
		{"", "east north south"},
		{"--filter name=north", "north"},
		{"--filter NAME=NORTH", "north"},
		{"--filter name=*th", "north south"},
		{"--filter name=n*h", "north"},
		{"--filter name=th", ""},
		{"--filter name=n.rth", ""},
		{"--filter name=north --filter name=east", "east north"}, // one key: or
		{"--filter name=*th --filter state_of_gate=open", "north"},
		{"--filter owner=ann --filter size=", ""}, // the owner of east has a control character
		{"--filter size=", "east"},
		{"--filter size=9GiB", "south"},
		{"--filter uuid=bbbb", "south"},
		{"--filter uuid=bbbb2222", "south"},
		{"--filter label=team", "north south"},
		{"--filter label=team=red", "north"},
		{"--filter label=team --filter label=hill", "north"}, // labels: and
		{"--filter label=hill=", "north"},
		{"--older-than 90m", "north"},
		{"--newer-than 90m", "south"},
		{"--sort name", "east north south"},
		{"--sort -name", "south north east"},
		{"--sort size", "south north east"}, // the unknown size is the last
		{"--sort -size", "north south east"},
		{"--sort created", "north south east"},
		{"--sort state_of_gate,-name", "south east north"},
		{"--sort owner", "south east north"},
	} {
		out, err := lists(t, append(strings.Fields(tc.args), "--format", "{{.Name}}")...)
		assert.NoErrorf(t, err, "%v", tc.args)
		if got := strings.Join(strings.Fields(out), " "); got != tc.names {
			t.Errorf("%v: %q, want %q", tc.args, got, tc.names)
		}
	}
}

func TestFormats(t *testing.T) {
	for args, want := range map[[2]string]string{
		{"-o", "table"}: "NAME    SIZE    STATE OF GATE   OWNER   CREATED\nnorth   10GiB   open            Bob     2 hours ago\n                close it                \n",
		{"-o", "wide"}:  "NAME    SIZE    STATE OF GATE   OWNER   CREATED       USE%   UUID\nnorth   10GiB   open            Bob     2 hours ago   7%     aaaa\n                close it                                     \n",
		{"-o", "yaml"}:  "- id: aaaa1111\n  name: north\n  size: 10737418240\n  created: \"2026-03-01T11:00:00Z\"\n  open: true\n  owner: Bob\n  labels:\n    hill: \"\"\n    team: red\n",
		{"--format", `{{.Name}}\t{{.UUID}} {{.UsePercent}} {{lower .Owner}}`}: "north\taaaa1111 7% bob\n",
		{"--format", `table {{.Name}}\t{{upper .StateOfGate}}`}:               "NAME    STATE OF GATE\nnorth   OPEN\n",
		{"--format", "json"}: `{"Created":"2 hours ago","Name":"north","Owner":"Bob","Size":"10GiB","StateOfGate":"open","UUID":"aaaa1111","UsePercent":"7%"}` + "\n",
		{"-q", "-q"}:         "aaaa1111\n",
	} {
		got, err := lists(t, append([]string{"--filter", "name=north"}, args[:]...)...)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", args, err, d)
		}
	}
	if got, err := lists(t, "--filter", "name=none", "-o", "json"); got != "[]\n" || err != nil {
		t.Errorf("no items: %q, %v", got, err)
	}
	if got, err := lists(t, "--filter", "name=east", "--format", "{{.Owner}}{{.Size}}"); got != "ann\\x1b\n" || err != nil {
		t.Errorf("a control character: %q, %v", got, err)
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[[2]string]string{
		{"--filter", "nane=x"}:         `unknown key "nane" for --filter, did you mean name? (available: created, label, name, owner, size, state_of_gate, use%, uuid)`,
		{"--filter", "name"}:           `--filter "name": expected KEY=VALUE, such as name=VALUE`,
		{"--filter", "size>1GiB"}:      `--filter "size>1GiB": expected KEY=VALUE, such as name=VALUE`,
		{"--filter", "label=te am=x"}:  `--filter: bad label key "te am"`,
		{"--sort", "name,nane"}:        `unknown key "nane" for --sort, did you mean name? (available: created,`,
		{"--sort", "-"}:                `unknown key "" for --sort`,
		{"-o", "yml"}:                  `unknown format "yml" (available: json, table, wide, yaml); did you mean yaml?`,
		{"--format", "{{.Nane}}"}:      `unknown column "Nane" for --format, did you mean Name? (available: Created, Name, Owner, Size, StateOfGate, UUID, UsePercent)`,
		{"--format", "{{.Name"}:        `--format: line 1: unclosed action`,
		{"--format", "{{nope .Name}}"}: `--format: line 1: function "nope" not defined`,
		{"--older-than", "yesterday"}:  `--older-than: bad duration "yesterday"`,
	} {
		_, err := lists(t, args[:]...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
