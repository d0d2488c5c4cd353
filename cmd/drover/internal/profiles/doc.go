// Package profiles has the commands of drover profile. Package main adds them to the command tree, and passes CheckKey
// to the commands as App.CheckKey. Package volumes shows profiles with Table and PolicyLines. The commands read files
// and call the API, and keep no state. The mistakes that profile check reports are found by the parser (package
// profiles at the root of the repository) and by settings.ProfileCheck.
package profiles
