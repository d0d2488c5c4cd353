package quality

import (
	"flag"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/reference/messages.md")

const catalogue = "docs/reference/messages.md"

// introduction begins the catalogue.
const introduction = `# Messages

Every text that Drover can show, by package: errors, log messages, findings of ` + "`drover doctor`" + ` with their
remedies, help texts and table headings. The page is generated from the code, so that all wordings can be reviewed in one
sitting. ` + "`%s`" + ` and the like stand for values, and … for a part that is chosen at run time.

To change a text, edit the code and run ` + "`go test ./test/quality -run TestMessages -update`" + `.
`

// TestMessages compares the catalogue of messages with the code.
func TestMessages(t *testing.T) {
	want := render(collectMessages(t))
	if *update {
		if err := os.MkdirAll(filepath.Join(top, filepath.Dir(catalogue)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, catalogue), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(read(t, catalogue), want); diff != "" {
		t.Errorf("%s is out of date. Run go test ./test/quality -run TestMessages -update\n(-file +code):\n%s",
			catalogue, diff)
	}
}

// collectMessages returns the texts of each package of the program.
func collectMessages(t *testing.T) map[string]messages {
	packages := map[string]messages{}
	for _, s := range sources(t) {
		if dir := filepath.ToSlash(filepath.Dir(s.name)); isProduct(s, dir) {
			if packages[dir] == nil {
				packages[dir] = messages{}
			}
			ast.Walk(collector{packages[dir], other}, s.file)
		}
	}
	return packages
}

var (
	// destructive matches a command of drover that destroys data. The rest of the hint is its arguments and flags, up
	// to the next command or sign.
	destructive = regexp.MustCompile(`drover (volume (rm|superseded discard)|trash purge|pool rm|node rm|snapshot (rm|prune)|` +
		`doctor --gc)\b[^,;:()]*`)
	looksOnly = regexp.MustCompile(`--dry-run\b`)
)

// destructiveHints returns the commands in a text that destroy data if a person copies them.
func destructiveHints(text string) (found []string) {
	for _, command := range destructive.FindAllString(text, -1) {
		if !looksOnly.MatchString(command) {
			found = append(found, command)
		}
	}
	return found
}

// TestHintsDestroyNothing refuses hints in errors, logs and findings with a command that destroys data: a person who
// copies the hint must not lose anything. A hint may have the command with --dry-run. Help texts describe commands, and
// may name them all.
func TestHintsDestroyNothing(t *testing.T) {
	for name, sections := range collectMessages(t) {
		for section, texts := range sections {
			if section == helpTexts {
				continue
			}
			for text := range texts {
				for _, command := range destructiveHints(text) {
					t.Errorf("%s: %q suggests %q (say what is lost and how to look first, for example with --dry-run)",
						name, text, command)
				}
			}
		}
	}
	for text, bad := range map[string]int{
		"is lost (drover volume rm %s)":                                          1,
		"is lost (drover volume rm %s --dry-run)":                                0,
		"drover doctor --gc … destroys it, drover doctor --gc … --dry-run shows": 1,
		"drover trash ls, drover trash purge NAME":                               1,
		"drover volume rmdir":                                                    0,
		"drover pool rm %s --forget --dry-run":                                   0,
		"drover volume inspect %s":                                               0,
	} {
		if got := destructiveHints(text); len(got) != bad {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

// identifier matches a word in the spelling of an unexported Go identifier, such as missingNames. A verb such as %s may
// precede a unit, as in %sGiB.
var identifier = regexp.MustCompile(`(?:^|[^%\w])([a-z]+[A-Z][a-z]\w*)`)

// TestMessagesHaveNoIdentifiers refuses the names of Go code in texts for people. A rename of an identifier that also
// changes a string makes such a text.
func TestMessagesHaveNoIdentifiers(t *testing.T) {
	for name, sections := range collectMessages(t) {
		for _, texts := range sections {
			for text := range texts {
				if found := identifier.FindStringSubmatch(text); found != nil {
					t.Errorf("%s: %q contains the identifier %s", name, text, found[1])
				}
			}
		}
	}
}

// isProduct reports whether a file is part of the program, not of its tests.
func isProduct(s source, dir string) bool {
	for part := range strings.SplitSeq(dir, "/") {
		if part != "backendtest" && (strings.HasSuffix(part, "test") || part == "tools" || part == "long") {
			return false // the texts of backendtest appear in drover backend verify
		}
	}
	return !s.isTest()
}

// The sections of a package in the catalogue.
const (
	errorTexts = "Errors"
	logTexts   = "Log messages"
	findings   = "Findings and remedies"
	helpTexts  = "Help"
	headings   = "Table headings"
	other      = "Other texts"
)

// messages are the texts of one package, by section.
type messages map[string]map[string]bool

func (m messages) add(section, text string) {
	if m[section] == nil {
		m[section] = map[string]bool{}
	}
	m[section][text] = true
}

// A collector visits a file. All strings below the node that it visits belong to one section.
type collector struct {
	found   messages
	section string
}

// Visit implements ast.Visitor.
func (c collector) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.ImportSpec:
		return nil
	case *ast.Field:
		if n.Tag != nil { // a tag of a struct is no text
			ast.Walk(c, n.Type)
			return nil
		}
	case *ast.FuncLit, *ast.BlockStmt:
		return collector{c.found, other}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && slices.Contains([]string{"Use", "Short", "Long", "Example"}, key.Name) {
			return collector{c.found, helpTexts}
		}
	case *ast.CallExpr:
		if section := sectionOf(n); section != "" {
			return collector{c.found, section}
		}
	case *ast.BinaryExpr, *ast.BasicLit:
		return c.visitText(n.(ast.Expr))
	}
	return c
}

// visitText adds a string literal, or a sum of strings. It returns the visitor for the operands of anything else.
func (c collector) visitText(n ast.Expr) ast.Visitor {
	text, isText := concatenate(n)
	if !isText {
		return c
	}
	if c.section == headings && strings.TrimSpace(text) != "" || isMessage(text, c.section) {
		c.found.add(c.section, text)
	}
	return nil
}

// concatenate returns the value of a string literal or a sum of strings. Each operand that is no literal becomes "…".
func concatenate(n ast.Expr) (text string, isText bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind == token.STRING {
			text, err := strconv.Unquote(n.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		if n.Op == token.ADD {
			left, isLeft := concatenate(n.X)
			right, isRight := concatenate(n.Y)
			return left + right, isLeft || isRight
		}
	}
	return "…", false
}

var (
	letters = regexp.MustCompile(`\pL\pL`)
	words   = regexp.MustCompile(`\pL\pL.* |\s\S*\pL\pL`) // a word and a space, in any order
	// machineText matches what only programs read: arguments of other programs, routes, media types.
	machineText = regexp.MustCompile(`^[^a-z]*$|[\x00-\x08\r]|` +
		`^\s*(GET|PUT|POST|DELETE|PATCH|HEAD) /|^[a-z-]+/[a-z-]+; ?charset`)
)

// isMessage reports whether a person can read a text as a message.
func isMessage(text, section string) bool {
	if section == errorTexts || section == helpTexts {
		return letters.MatchString(text)
	}
	return words.MatchString(text) && !machineText.MatchString(text)
}

// sectionOf returns the section of the strings in a call, empty if that of the surrounding node holds.
func sectionOf(call *ast.CallExpr) string {
	var name, receiver string
	switch f := call.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
		if x, ok := f.X.(*ast.Ident); ok {
			receiver = x.Name
		}
	}
	switch {
	case strings.HasSuffix(name, "rrorf") && len(call.Args) > 0, name == "New" && receiver == "errors":
		return errorTexts
	case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, strings.TrimSuffix(name, "f")):
		return logTexts
	case name == "NewTable":
		return headings
	case name == "Add" && len(call.Args) > 3:
		return findings
	case regexp.MustCompile(`^(String|Bool|Int|Uint\d*|Duration|StringSlice|StringArray)?VarP?$`).MatchString(name),
		regexp.MustCompile(`Flags?$`).MatchString(name):
		return helpTexts
	}
	return ""
}

func render(packages map[string]messages) string {
	var b strings.Builder
	b.WriteString(introduction)
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		if len(packages[name]) == 0 {
			continue
		}
		b.WriteString("\n## " + name + "\n")
		for _, section := range []string{errorTexts, logTexts, findings, helpTexts, headings, other} {
			texts := slices.Sorted(maps.Keys(packages[name][section]))
			if len(texts) == 0 {
				continue
			}
			separator := "\n"
			if section == headings {
				separator = ", "
			}
			for i := range texts {
				texts[i] = strings.TrimSuffix(strings.TrimSpace(texts[i]), "\n")
			}
			b.WriteString("\n" + section + ":\n\n~~~\n" + strings.Join(texts, separator) + "\n~~~\n")
		}
	}
	return b.String()
}
