package cli

import (
	"fmt"
	"slices"
	"strings"

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
