package listing

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

// pasture is an item with each form of JSON field.
type pasture struct {
	land
	Name    string            `json:"name"`
	Size    dataset.Size      `json:"size,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	Open    bool              `json:"open,omitempty"`
	Fence   *fence            `json:"fence,omitempty"`
	Cows    []cow             `json:"cows,omitempty"`
	Tags    []string          `json:"tags,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Rest    dataset.Duration  `json:"rest,omitempty"`
	secret  string
}

type land struct {
	ID        uuid.UUID `json:"id"`
	OwnerName string    `json:"owner_name"`
}

type fence struct {
	Height int `json:"height"`
}

type cow struct {
	Name string `json:"name"`
}

var (
	idNorth = uuid.MustParse("aaaa1111-0000-4000-8000-000000000001")
	idSouth = uuid.MustParse("bbbb2222-0000-4000-8000-000000000002")
	idEast  = uuid.MustParse("cccc3333-0000-4000-8000-000000000003")
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pastures() []pasture {
	at := noon
	return []pasture{
		{land: land{idSouth, "Ann"}, Name: "south", Size: 9 * dataset.GiB, Created: at, Fence: &fence{2}, Cows: []cow{{"Bella"}, {"Rosa"}}, Tags: []string{"dry", "flat"}, Labels: map[string]string{"team": "blue"}, secret: "x", Rest: dataset.Duration(90 * time.Minute)},
		{land: land{idNorth, "Bob"}, Name: "north", Size: 10 * dataset.GiB, Created: at.Add(-time.Hour), Open: true, Labels: map[string]string{"team": "red", "hill": ""}, Rest: dataset.Duration(time.Minute)},
		{land: land{idEast, "ann"}, Name: "east"},
	}
}

// lists runs an ls command of the pastures.
func lists(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	a := &cli.App{Out: &out, ErrOut: &out, Getenv: func(string) string { return "" }, Now: func() time.Time { return noon.Add(time.Hour) }, Dial: func(string) (cli.Remote, error) { return nil, nil }}
	cmd := New(a, List[pasture]{
		Short:         "List the pastures",
		Local:         true,
		FetchMatching: func(_ *cobra.Command, q Query) ([]pasture, error) { return pastures(), nil },
		ID:            func(p pasture) string { return p.ID.String() },
		Name:          func(p pasture) string { return p.Name },
		Labels:        OwnLabels(func(p pasture) map[string]string { return p.Labels }),
		Table: func(list []pasture) *show.Table {
			t := show.NewTable("NAME", "SIZE", "STATE OF GATE", "OWNER")
			for _, p := range list {
				size, gate := "", "closed"
				if p.Size > 0 {
					size = p.Size.Human()
				}
				if p.Open {
					gate = "open"
				}
				t.Row(p.Name, size, gate, p.OwnerName)
				if p.Open {
					t.Below(2, "close it")
				}
			}
			return t
		},
		Wide: []Column[pasture]{
			{"TAGS", func(p pasture) string { return strings.Join(p.Tags, ",") }},
			{"USE%", func(p pasture) string { return map[string]string{"south": "85%", "north": "7%"}[p.Name] }},
			{"FENCE", func(p pasture) string { return map[string]string{"south": "high"}[p.Name] }},
			{"HEIGHT", func(p pasture) string { return map[string]string{"south": "2m"}[p.Name] }},
			{"UUID", func(p pasture) string { return p.ID.String()[:8] }},
		},
		SortBy: map[string]string{"size": "size", "height": "fence.height", "uuid": "id"},
	})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestSelectAndSort(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string // the names
	}{
		{nil, "east north south"},
		{[]string{"--filter", "name=north"}, "north"},
		{[]string{"--filter", "name=NORTH"}, "north"},
		{[]string{"--filter", "name!=north"}, "east south"},
		{[]string{"--filter", "name=*th"}, "north south"},
		{[]string{"--filter", "name=*o*t*"}, "north south"},
		{[]string{"--filter", "name=n*h"}, "north"},
		{[]string{"--filter", "name=north*north"}, ""},
		{[]string{"--filter", "name=th"}, `drover: nothing has name "th" (present: east, north, south)`},
		{[]string{"--filter", "state_of_gate=open"}, "north"},
		{[]string{"--filter", "open=true"}, "north"},
		{[]string{"--filter", "open=false"}, "east south"},
		{[]string{"--filter", "size=9GiB"}, "south"},
		{[]string{"--filter", "size=9216MiB"}, "south"},
		{[]string{"--filter", "size="}, "east"},
		{[]string{"--filter", "size!="}, "north south"},
		{[]string{"--filter", "id=bbbb"}, "south"},
		{[]string{"--filter", "id=bbbb2222-0000-4000-8000-000000000002"}, "south"},
		{[]string{"--filter", "id=bb"}, ""},
		{[]string{"--filter", "fence.height=2"}, "south"},
		{[]string{"--filter", "fence.height="}, "east north"},
		{[]string{"--filter", "cows.name=rosa"}, "south"},
		{[]string{"--filter", "tags=flat"}, "south"},
		{[]string{"--filter", "tags=dry,flat"}, "south"}, // the cell
		{[]string{"--filter", "tags="}, "east north"},
		{[]string{"--filter", "labels.team=r*"}, "north"},
		{[]string{"--filter", "owner_name=ann", "--filter", "size="}, "east"},
		{[]string{"--filter", "size>9GiB"}, "north"},
		{[]string{"--filter", "size>=9GiB"}, "north south"},
		{[]string{"--filter", "size < 9.5GiB"}, "south"}, // an unknown size matches nothing
		{[]string{"--filter", "size>0"}, "north south"},
		{[]string{"--filter", "fence.height<3"}, "south"},
		{[]string{"--filter", "use>80%"}, "south"},
		{[]string{"--filter", "use%<=50"}, "north"},
		{[]string{"--filter", "created<90m"}, "south"}, // its age
		{[]string{"--filter", "created>=90m"}, "north"},
		{[]string{"--filter", "created<2026-03-01 11:30"}, "north"}, // its time
		{[]string{"--filter", "created>2026-03-01T11:30:00Z"}, "south"},
		{[]string{"--filter", "rest>=1m", "--filter", "rest<1h"}, "north"},
		{[]string{"-l", "team"}, "north south"},
		{[]string{"-l", "team=red"}, "north"},
		{[]string{"-l", "team!=red"}, "south"},
		{[]string{"-l", "team", "--label", "hill"}, "north"},
		{[]string{"-l", "hill="}, "north"},
		{[]string{"--sort", "name"}, "east north south"},
		{[]string{"--sort", "-name"}, "south north east"},
		{[]string{"--sort", "size"}, "south north east"}, // the unknown size is the last
		{[]string{"--sort", "-size"}, "north south east"},
		{[]string{"--sort", "created"}, "north south east"},
		{[]string{"--sort", "rest"}, "north south east"},
		{[]string{"--sort=owner"}, "south east north"},
		{[]string{"--sort=fence.height"}, "south east north"},
		{[]string{"--sort=state_of_gate", "--filter", "name=*"}, "east south north"},
	} {
		out, err := lists(t, append(tc.args, "-o", "name")...)
		if err != nil {
			t.Errorf("%v: %v", tc.args, err)
		}
		if got := strings.Join(strings.Fields(out), " "); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.args, got, tc.want)
		}
	}
}

func TestFormats(t *testing.T) {
	north := []string{"--filter", "name=north"}
	for format, want := range map[string]string{
		"table":                       "NAME    SIZE    STATE OF GATE   OWNER\nnorth   10GiB   open            Bob\n                close it        \n",
		"wide":                        "NAME    SIZE    STATE OF GATE   OWNER   TAGS   USE%   FENCE   HEIGHT   UUID\nnorth   10GiB   open            Bob     -      7%     -       -        aaaa1111\n                close it                                               \n",
		"name":                        "north\n",
		"yaml":                        "- id: aaaa1111-0000-4000-8000-000000000001\n  owner_name: Bob\n  name: north\n  size: 10737418240\n  created: \"2026-03-01T11:00:00Z\"\n  open: true\n  labels:\n    hill: \"\"\n    team: red\n  rest: 1m0s\n",
		"template={{.name}}":          "north\n",
		"go-template={{.name}}":       "north\n",
		`template={{.Name}}\t{{.ID}}`: "north\taaaa1111-0000-4000-8000-000000000001\n",
		"template={{.OwnerName}} {{.owner_name}} {{.labels.team}}{{.labels.none}}":      "Bob Bob red\n",
		"template={{if gt .size 5}}large{{end}} {{.fence.height}} {{.Fence.Height}}":    "large 0 0\n",
		"template={{range .cows}}{{.Name}}{{else}}no cows of {{.Name}}{{end}}":          "no cows of north\n",
		"template={{with .labels}}{{.team}} {{$.OwnerName | upper}}{{end}}":             "red BOB\n",
		"template={{json .tags}} {{json .labels}} {{join .tags \",\"}} {{.name|lower}}": "[] {\"hill\":\"\",\"team\":\"red\"}  north\n",
	} {
		got, err := lists(t, append(north, "-o", format)...)
		if err != nil {
			t.Errorf("%s: %v", format, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s:\n%s", format, d)
		}
	}
	if got, err := lists(t, append(north, "-q")...); got != idNorth.String()+"\n" || err != nil {
		t.Errorf("-q: %q, %v", got, err)
	}
	got, err := lists(t, "-o", "template={{range .cows}}{{.Name}} {{end}}", "--filter", "name=south")
	if got != "Bella Rosa \n" || err != nil {
		t.Errorf("cows: %q, %v", got, err)
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[[2]string]string{
		{"--filter", "nane=x"}:               `unknown key "nane" for --filter, did you mean name? (available: created, fence, height, id, name,`,
		{"--filter", "cows=x"}:               `--filter cows: expected one of its fields (available: cows.name)`,
		{"--filter", "name"}:                 `--filter "name": expected KEY=VALUE or KEY!=VALUE, such as name='db*', or a comparison in quotes, such as 'size>1GiB'`,
		{"--filter", "name>x"}:               `--filter "name>x": name cannot be compared (available: created, height, rest, size, use%)`,
		{"--filter", "nane>x"}:               `unknown key "nane" for --filter, did you mean name?`,
		{"--filter", "size>"}:                `--filter "size>": the value is missing, such as 'size>1GiB'`,
		{"--filter", "size=>1GiB"}:           `--filter "size=>1GiB": use 'size>=1GiB'`,
		{"--filter", "size>80%"}:             `--filter "size>80%": size is no percentage (use 'use>80%')`,
		{"--filter", "size>10"}:              `--filter "size>10": bad size "10": a bare number is ambiguous`,
		{"--filter", "use%>x"}:               `--filter "use%>x": "x" is not a number`,
		{"--filter", "created>soon"}:         `--filter "created>soon": expected an age, such as 30m or 7d, or a time, such as 2026-03-01`,
		{"--filter", "secret=x"}:             `unknown key "secret" for --filter`,
		{"--filter", "name.x=x"}:             `unknown key "name.x" for --filter`,
		{"--sort", "nane"}:                   `unknown key "nane" for --sort, did you mean name? (available: created,`,
		{"--sort", "-"}:                      `unknown key "" for --sort`,
		{"-l", "te am=x"}:                    `--label: bad label key "te am"`,
		{"-o", "yml"}:                        `unknown format "yml" (available: json, name, table, template=TEXT, wide, yaml); did you mean yaml?`,
		{"-o", "template"}:                   `expected template=TEXT, such as template='{{.id}}'`,
		{"-o", "template="}:                  `--output template: the template is empty (available: .Name, .Size, .StateOfGate, .Owner, .Tags, .UsePercent, .Fence, .Height, .UUID, .size, .created,`,
		{"-o", "template={{.nane}}"}:         `unknown field "nane" for --output template, did you mean Name? (available: Fence, Height, Name, Owner, Size, StateOfGate, Tags, UUID, UsePercent, cows, created, fence, id,`,
		{"-o", "template={{.fence.hight}}"}:  `unknown field "fence.hight" for --output template, did you mean fence.height? (available: fence.height)`,
		{"-o", "template={{.name.x}}"}:       `unknown field "name.x" for --output template`,
		{"-o", "template={{.name"}:           `--output template: line 1: unclosed action (available: .Name,`,
		{"-o", "template={{nope .name}}"}:    `function "nope" not defined (available: .Name,`,
		{"-o", "template={{index .tags 7}}"}: `out of range: 7 (available: .Name,`,
	} {
		_, err := lists(t, args[:]...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

// TestSchemaIsTheJSON compares the schema with what encoding/json prints.
func TestSchemaIsTheJSON(t *testing.T) {
	s := schemaFor[pasture]()
	o, err := toObject(pastures()[0])
	if err != nil {
		t.Fatal(err)
	}
	for name := range o.(map[string]any) {
		if name != "open" && s.fields[name] == nil {
			t.Errorf("no field %s", name)
		}
	}
	if s.fields["secret"] != nil || s.fields["land"] != nil || s.find("cows.name") == nil || s.find("cows.nom") != nil {
		t.Errorf("fields %v", s.names)
	}
}

// TestColumnsInTemplates: the columns of the table are names in a template, as in docker.
func TestColumnsInTemplates(t *testing.T) {
	for format, want := range map[string]string{
		"{{.Name}} {{.Size}} {{.size}}":                        "south 9GiB 9663676416\n",
		"{{.Size | lower}} {{printf \"%d\" .Size}}":            "9gib 9663676416\n",
		"{{.UsePercent}} {{.UsePerc}} {{.Use}} {{.useperc}}":   "85% 85% 85% 85%\n",
		"{{.Fence}} {{.Fence.Height}} {{.Height}} {{.height}}": "high 2 2m 2\n",
		"{{.StateOfGate}} {{.state_of_gate}} {{.Owner}}":       "closed closed Ann\n",
		"{{.Tags}} {{json .Tags}} {{.tags}}":                   "dry,flat [\"dry\",\"flat\"] [dry flat]\n",
		"{{.UUID}} {{.ID}}":                                    idSouth.String() + " " + idSouth.String() + "\n",
		"{{.Created}} {{.Open}}":                               "2026-03-01T12:00:00Z false\n",
		`{{with .Cows}}{{$.Size}}{{end}}`:                      "9GiB\n",
	} {
		got, err := lists(t, "--filter", "name=south", "-o", "template="+format)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", format, err, d)
		}
	}
}

// TestTemplateOfTable: as in docker, a template that begins with table prints a header, and aligns the columns.
func TestTemplateOfTable(t *testing.T) {
	for format, want := range map[string]string{
		`template=table {{.name}}\t{{.Size}}`:                   "NAME    SIZE\neast    -\nnorth   10GiB\nsouth   9GiB\n",
		`table {{.UsePercent}}\t{{.OwnerName}}`:                 "USE%   OWNER NAME\n-      ann\n7%     Bob\n85%    Ann\n",
		"table {{.fence.height}}{{\"\\t\"}}{{json .name}}":      "HEIGHT   NAME\n0        \"east\"\n0        \"north\"\n2        \"south\"\n",
		`table {{.Name}}\t{{if .open}}open{{end}}\t{{.Height}}`: "NAME    open   HEIGHT\neast           -\nnorth   open   -\nsouth          2m\n",
		`table {{.Name}}\t{{range .tags}}{{.}} {{end}}`:         "NAME    TAGS\neast    \nnorth   \nsouth   dry flat \n",
	} {
		got, err := lists(t, "-o", format)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", format, err, d)
		}
	}
	if got, err := lists(t, "-o", `table {{.Name}}\t{{.Size}}`, "--filter", "name=*x*"); got != "NAME   SIZE\n" || err != nil {
		t.Errorf("no items: %q, %v", got, err)
	}
}
