package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The values of -o.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// Output has the flags that decide how a command prints its result.
type Output struct {
	format format
	Quiet  bool
	Detach bool
	DryRun bool // the server only decides, and changes nothing
}

// JSON reports whether -o json was given.
func (o *Output) JSON() bool { return o.format.name == formatJSON }

// YAML reports whether -o yaml was given.
func (o *Output) YAML() bool { return o.format.name == formatYAML }

// format is the value of -o: table, json or, for the commands that print reports or inspect items, yaml.
type format struct {
	name    string
	reports bool // yaml is accepted
}

func (f *format) String() string { return f.name }

// Type returns the placeholder for the value in the help.
func (f *format) Type() string { return strings.Join(f.names(), "|") }

func (f *format) names() []string {
	if f.reports {
		return []string{formatTable, formatJSON, formatYAML}
	}
	return []string{formatTable, formatJSON}
}

// Set accepts one of the names.
func (f *format) Set(s string) error {
	if !slices.Contains(f.names(), s) {
		return fmt.Errorf("unknown format %q (available: %s)", dataset.Clip(s), dataset.FormatChoices(f.names()))
	}
	f.name = s
	return nil
}

// OutputFlags gives a command -o and, if it can print only IDs, -q.
func OutputFlags(cmd *cobra.Command, quiet bool) *Output {
	return outputFlags(cmd, quiet, format{name: formatTable})
}

// ReportFlags gives a command -o with the formats table, json and yaml.
func ReportFlags(cmd *cobra.Command) *Output {
	return outputFlags(cmd, false, format{name: formatTable, reports: true})
}

func outputFlags(cmd *cobra.Command, quiet bool, f format) *Output {
	o := &Output{format: f}
	cmd.Flags().VarP(&o.format, "output", "o", "output format")
	CompleteFlag(cmd, "output", o.format.names()...)
	if quiet {
		quietFlag(cmd, o)
	}
	return o
}

// DryRunFlag gives a command --dry-run.
func DryRunFlag(cmd *cobra.Command, o *Output) {
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "show what would happen, and change nothing")
}

func quietFlag(cmd *cobra.Command, o *Output) {
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "print only IDs")
}

// CompleteFlag completes the value of a flag with fixed words.
func CompleteFlag(cmd *cobra.Command, name string, words ...string) {
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name,
		cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
}

// MakeFlags adds the flags of a command that creates a volume. The -o of such a command is Docker's KEY=VALUE. It also
// accepts json and table, because no option has these names.
func MakeFlags(cmd *cobra.Command) (*Output, map[string]string) {
	o := &Output{format: format{name: formatTable}}
	opts := map[string]string{}
	cmd.Flags().VarP(options{&o.format, opts}, "opt", "o",
		"an option of the volume (-o help lists them), or json or table as for --output")
	cmd.Flags().Var(&o.format, "output", "output format")
	CompleteFlag(cmd, "output", formatTable, formatJSON)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("opt", completeOption))
	quietFlag(cmd, o)
	return o, opts
}

// KeepSchedulesFlag adds --keep-schedules to a command that makes a copy of a volume.
func KeepSchedulesFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("keep-schedules", false, "make snapshots and backups as the profile schedules them")
}

// options is the value of -o of a command that creates a volume.
type options struct {
	format *format
	values map[string]string
}

func (o options) String() string { return "" }

// Type returns the placeholder for the value in the help.
func (o options) Type() string { return "KEY=VALUE" }

// Set accepts one option, or the format.
func (o options) Set(s string) error {
	key, value, pair := strings.Cut(s, "=")
	if !pair && (s == formatTable || s == formatJSON) {
		return o.format.Set(s)
	}
	if _, twice := o.values[key]; twice {
		return fmt.Errorf("duplicate option %s", key)
	}
	o.values[key] = value
	return nil
}

// PrintList prints items as JSON, as YAML, only their IDs, or as a table.
func PrintList[T any](a *App, o *Output, items []T, id func(T) string, table func([]T) *Table) error {
	switch {
	case o.JSON():
		return JSONList(a.Out, items)
	case o.YAML():
		return YAML(a.Out, append([]T{}, items...))
	case o.Quiet:
		for _, it := range items {
			if _, err := fmt.Fprintln(a.Out, id(it)); err != nil {
				return err
			}
		}
		return nil
	}
	return table(items).Write(a.Out)
}

// PrintObject prints an object: as JSON, as YAML or as a form.
func PrintObject[T any](a *App, o *Output, v T, form func(T) *Form) error {
	switch o.format.name {
	case formatJSON:
		return JSON(a.Out, v)
	case formatYAML:
		return YAML(a.Out, v)
	}
	return form(v).Write(a.Out)
}

// PrintLine prints a line for people.
func (a *App) PrintLine(format string, args ...any) error {
	_, err := fmt.Fprintln(a.Out, Clean(fmt.Sprintf(format, args...)))
	return err
}

// PrintResult prints what a command did: as JSON, or as a line for people.
func (a *App) PrintResult(o *Output, result any, format string, args ...any) error {
	if o.JSON() {
		return JSON(a.Out, result)
	}
	return a.PrintLine(format, args...)
}

// Find finds one of the items by its name or a unique prefix of its UUID. It fails with dataset.ErrNotFound if there is
// none, and with dataset.ErrAmbiguous if there are several. what names the kind of item in errors.
func Find[T any](items []T, what, ref string, name func(T) string, id func(T) uuid.UUID) (T, error) {
	var hits []T
	var have, matched []string
	for _, it := range items {
		have = append(have, name(it))
		if name(it) == ref {
			hits, matched = append(hits, it), append(matched, id(it).String())
		}
	}
	if len(hits) == 0 && dataset.CheckPrefix(strings.ToLower(ref)) == nil {
		for _, it := range items {
			if strings.HasPrefix(id(it).String(), strings.ToLower(ref)) {
				hits, matched = append(hits, it), append(matched, id(it).String()+" ("+name(it)+")")
			}
		}
	}
	var none T
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return none, dataset.Errorf(dataset.ErrNotFound, "no such %s: %q (available: %s)%s", what, dataset.Clip(ref),
			dataset.FormatChoices(have), dataset.Suggestion(ref, have))
	}
	return none, dataset.Errorf(dataset.ErrAmbiguous, "%q is ambiguous, it matches: "+
		"%s", ref, strings.Join(matched, ", "))
}

// UniquePoolName returns the name by which drover pool inspect finds a pool: NODE/NAME if several of the pools have its
// name.
func UniquePoolName(p api.Pool, pools []api.Pool) string {
	for _, o := range pools {
		if o.Name == p.Name && (o.ID != p.ID || o.Node != p.Node) { // a pool that could not be opened has no ID
			return p.NodeName + "/" + p.Name
		}
	}
	return p.Name
}

// gap separates two columns.
const gap = "   "

// Table is a table with headers. Each column is as wide as its widest cell, and no cell is cut. An empty table prints
// its headers. Not safe for concurrent use.
type Table struct {
	rows  [][]string
	paint map[int]func(string) string
}

// NewTable starts a table with its headers.
func NewTable(headers ...string) *Table {
	return &Table{rows: [][]string{headers}, paint: map[int]func(string) string{}}
}

// Row adds a row. It cleans the cells (see Clean), and shows an empty cell as "-".
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = cmp.Or(Clean(c), "-")
	}
	t.rows = append(t.rows, row)
}

// Below adds a line below the last row with a cell in one column. The other cells of the line are blank.
func (t *Table) Below(column int, cell string) {
	row := make([]string, len(t.rows[0]))
	row[column] = Clean(cell)
	t.rows = append(t.rows, row)
}

// Paint makes Write colour the cells of a column with f. The colours do not affect the width of the column. The header
// is not coloured.
func (t *Table) Paint(column int, f func(string) string) { t.paint[column] = f }

// Write prints the table; the last column is not padded.
func (t *Table) Write(w io.Writer) error {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	line, widest := 1, 0 // the length of a line, and the width of the widest column
	for _, w := range widths {
		line, widest = line+w+len(gap), max(widest, w)
	}
	blanks := strings.Repeat(" ", widest+len(gap))
	var b strings.Builder
	b.Grow(line * len(t.rows))
	for n, row := range t.rows {
		for i, c := range row {
			width := utf8.RuneCountInString(c)
			if f := t.paint[i]; f != nil && n > 0 {
				c = f(c)
			}
			b.WriteString(c)
			if i < len(row)-1 {
				b.WriteString(blanks[:widths[i]-width+len(gap)])
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Form shows one object as lines of a name and its values. Not safe for concurrent use.
type Form struct {
	names  []string
	values [][]string
}

// Add adds a line. Further values are on separate lines below the first one. If there is no value, or all are empty, it
// adds nothing, because the field does not apply.
func (f *Form) Add(name string, values ...string) {
	var lines []string
	for _, v := range values {
		if v != "" {
			lines = append(lines, Clean(v))
		}
	}
	if len(lines) > 0 {
		f.names, f.values = append(f.names, name+":"), append(f.values, lines)
	}
}

// Write prints the form with the values in one column.
func (f *Form) Write(w io.Writer) error {
	width := 0
	for _, n := range f.names {
		width = max(width, utf8.RuneCountInString(n))
	}
	var b strings.Builder
	for i, n := range f.names {
		for j, v := range f.values[i] {
			if j > 0 {
				n = ""
			}
			b.WriteString(n + strings.Repeat(" ", width-utf8.RuneCountInString(n)+2) + v + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Palette colours words on a terminal and does nothing elsewhere. The zero
// value does nothing.
type Palette struct{ on bool }

// NewPalette returns a palette that colours words if the output is a terminal with colours. It does not colour if
// NO_COLOR is not empty (no-color.org), or if TERM is unset or dumb.
func NewPalette(terminal bool, getenv func(string) string) Palette {
	term := getenv("TERM")
	return Palette{on: terminal && getenv("NO_COLOR") == "" && term != "" && term != "dumb"}
}

// Red marks errors.
func (p Palette) Red(s string) string { return p.sgr("31", s) }

// Yellow marks warnings.
func (p Palette) Yellow(s string) string { return p.sgr("33", s) }

// Green marks good states.
func (p Palette) Green(s string) string { return p.sgr("32", s) }

func (p Palette) sgr(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// JSON writes v indented, ending with a newline. A nil slice is written as null: see List.
func JSON[T any](w io.Writer, v T) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// JSONList writes items as a JSON array: [] when there are none.
func JSONList[T any](w io.Writer, items []T) error {
	return JSON(w, append([]T{}, items...))
}

// YAML writes what JSON writes, as YAML.
func YAML[T any](w io.Writer, v T) error {
	var b bytes.Buffer
	if err := JSON(&b, v); err != nil {
		return err
	}
	out, err := yaml.JSONToYAML(b.Bytes())
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	if bytes.ContainsFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		out = b.Bytes() // the YAML does not escape control characters, and JSON is YAML too
	}
	_, err = w.Write(out)
	return err
}

// Document writes v as one YAML document of a stream of documents.
func Document[T any](w io.Writer, v T) error {
	if _, err := io.WriteString(w, "---\n"); err != nil {
		return err
	}
	return YAML(w, v)
}

// Line writes v as one line of JSON, for streams.
func Line(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Clean returns s on one line. Characters that are not printable are escaped as in Go: \n, \x1b, \u202e.
func Clean(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[0]), 16))
		case !unicode.IsPrint(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// isPlain reports whether a text has only printable ASCII characters, as most texts do.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Ago returns how long before or after now t is: "3 days ago", "in 2 hours", "just now". For the zero time it returns
// "-".
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := t.Sub(now)
	switch {
	case d.Abs() < time.Second:
		return "just now"
	case d > 0:
		return "in " + strings.ToLower(units.HumanDuration(d))
	}
	return strings.ToLower(units.HumanDuration(-d)) + " ago"
}

// When returns a time both as a date in the zone of now and relative to now.
func When(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(now.Location()).Format("2006-01-02 15:04:05 MST") + " (" + Ago(now, t) + ")"
}

// ShortLength is the minimum number of characters of a UUID in the output. Users copy the shortened UUID into a spec
// such as db@snapshot-f23ca986.
const ShortLength = 8

// Shorten returns a function that shortens each of the UUIDs to its first eight characters, or to as many more as
// distinguish it from all others.
func Shorten(ids []uuid.UUID) func(uuid.UUID) string {
	sorted := slices.Clone(ids)
	slices.SortFunc(sorted, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	sorted = slices.Compact(sorted)
	short := make(map[uuid.UUID]string, len(sorted))
	texts := make([]string, len(sorted))
	for i, id := range sorted {
		texts[i] = id.String()
	}
	shared := 0 // the number of characters that a UUID shares with its neighbor
	for i, id := range sorted {
		n := max(ShortLength, shared+1)
		if shared = 0; i+1 < len(sorted) {
			shared = common(texts[i], texts[i+1])
		}
		short[id] = texts[i][:max(n, shared+1)]
	}
	return func(id uuid.UUID) string {
		if s, ok := short[id]; ok {
			return s
		}
		return id.String()
	}
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
