import { css } from "lit";

/** The look of every screen: Horizon's own parameters and a four-pixel grid. No colour is spelt out, so all four themes hold. */
export const styles = css`
  :host {
    display: block;
    color: var(--sapTextColor);
    font-family: var(--sapFontFamily);
    font-size: var(--sapFontSize);
    line-height: 1.4;
  }
  * {
    box-sizing: border-box;
  }
  [hidden] {
    display: none !important;
  }
  h1,
  h2,
  h3,
  p,
  dl,
  dd,
  ul,
  ol {
    margin: 0;
    padding: 0;
  }
  ul,
  ol {
    list-style: none;
  }
  h1,
  h2,
  h3 {
    font-family: var(--sapFontHeaderFamily);
    color: var(--sapGroup_TitleTextColor);
    font-weight: normal;
    overflow-wrap: anywhere;
  }
  h2 {
    font-size: var(--sapFontHeader3Size);
  }
  h3,
  .card > .head h2 {
    font-size: var(--sapFontHeader5Size);
    font-family: var(--sapFontBoldFamily);
  }
  bdi {
    overflow-wrap: anywhere;
  }
  a {
    color: var(--sapLinkColor);
    text-decoration: none;
    border-radius: 0.25rem;
  }
  a:hover {
    text-decoration: underline;
  }
  a:focus-visible,
  button:focus-visible,
  [tabindex]:focus-visible {
    outline: var(--sapContent_FocusWidth, 2px) solid var(--sapContent_FocusColor);
    outline-offset: 1px;
  }
  .stack {
    display: flex;
    flex-direction: column;
    gap: 1rem;
  }
  .row {
    display: flex;
    flex-wrap: wrap;
    align-items: center;
    gap: 0.5rem;
  }
  .grow {
    flex: 1 1 auto;
    min-width: 0;
  }
  .muted {
    color: var(--sapContent_LabelColor);
  }
  .small {
    font-size: var(--sapFontSmallSize);
  }
  .mono {
    font-family: "72Mono", monospace;
    font-size: 0.8125rem;
  }
  .nowrap {
    white-space: nowrap;
  }
  .num {
    text-align: end;
    font-variant-numeric: tabular-nums;
  }
  .card {
    background: var(--sapTile_Background);
    border: 1px solid var(--sapTile_BorderColor, transparent);
    border-radius: var(--sapTile_BorderCornerRadius, 1rem);
    box-shadow: var(--sapContent_Shadow0);
    padding: 1rem;
    min-width: 0;
  }
  .card.flush {
    padding: 0;
    overflow: hidden;
  }
  .card > .head {
    display: flex;
    flex-wrap: wrap;
    align-items: center;
    gap: 0.5rem 1rem;
    margin-block-end: 0.75rem;
  }
  .card.flush > .head {
    padding: 1rem 1rem 0;
  }
  .badge {
    display: inline-flex;
    align-items: center;
    gap: 0.375rem;
    padding: 0.125rem 0.5rem;
    min-height: 1.5rem;
    border-radius: 0.5rem;
    border: 1px solid var(--sapNeutralBorderColor);
    background: var(--sapNeutralBackground);
    color: var(--sapTextColor);
    font-size: var(--sapFontSmallSize);
    font-family: var(--sapFontSemiboldDuplexFamily, var(--sapFontFamily));
    white-space: nowrap;
  }
  .badge ui5-icon {
    color: inherit;
    width: 0.875rem;
    height: 0.875rem;
    flex: none;
  }
  .badge.positive {
    border-color: var(--sapSuccessBorderColor);
    background: var(--sapSuccessBackground);
    color: var(--sapPositiveTextColor);
  }
  .badge.negative {
    border-color: var(--sapErrorBorderColor);
    background: var(--sapErrorBackground);
    color: var(--sapNegativeTextColor);
  }
  .badge.critical {
    border-color: var(--sapWarningBorderColor);
    background: var(--sapWarningBackground);
    color: var(--sapCriticalTextColor);
  }
  .badge.info {
    border-color: var(--sapInformationBorderColor);
    background: var(--sapInformationBackground);
    color: var(--sapInformativeTextColor);
  }
  dl.facts {
    display: grid;
    grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr));
    gap: 0.75rem 1.5rem;
  }
  dl.facts .wide {
    grid-column: span 2;
  }
  @media (max-width: 40rem) {
    dl.facts .wide {
      grid-column: auto;
    }
  }
  dl.facts dt {
    color: var(--sapContent_LabelColor);
    font-size: var(--sapFontSmallSize);
  }
  dl.facts dd {
    overflow-wrap: anywhere;
  }
  .scroll {
    overflow-x: auto;
  }
  table {
    width: 100%;
    border-collapse: collapse;
    background: var(--sapList_Background);
    color: var(--sapList_TextColor);
  }
  th,
  td {
    padding: 0.5rem 0.75rem;
    text-align: start;
    vertical-align: middle;
    border-block-end: 1px solid var(--sapList_BorderColor);
  }
  th:first-child,
  td:first-child {
    padding-inline-start: 1rem;
  }
  th:last-child,
  td:last-child {
    padding-inline-end: 1rem;
  }
  th {
    background: var(--sapList_HeaderBackground);
    color: var(--sapList_HeaderTextColor);
    font-family: var(--sapFontBoldFamily);
    font-weight: normal;
    white-space: nowrap;
    border-block-end-color: var(--sapList_HeaderBorderColor);
    height: 2.75rem;
  }
  th.num,
  td.num {
    text-align: end;
  }
  tbody tr {
    height: 2.75rem;
  }
  tbody tr:hover {
    background: var(--sapList_Hover_Background);
  }
  tbody tr[aria-selected="true"],
  tbody tr.selected {
    background: var(--sapList_SelectionBackgroundColor);
  }
  /* The link's own colour is too faint on these grounds. */
  tbody tr.selected a,
  ui5-message-strip a {
    color: var(--sapTextColor);
    text-decoration: underline;
  }
  tbody tr:last-child td {
    border-block-end: none;
  }
  td.name {
    max-width: 22rem;
    min-width: 9rem;
  }
  td.name a,
  td.name bdi {
    display: -webkit-box;
    -webkit-box-orient: vertical;
    -webkit-line-clamp: 2;
    overflow: hidden;
  }
  th button {
    all: unset;
    cursor: pointer;
    display: inline-flex;
    align-items: center;
    gap: 0.25rem;
    min-height: 1.5rem;
    border-radius: 0.25rem;
  }
  th button:focus-visible {
    outline: var(--sapContent_FocusWidth, 2px) solid var(--sapContent_FocusColor);
    outline-offset: 2px;
  }
  th button:hover {
    text-decoration: underline;
  }
  input[type="checkbox"] {
    width: 1.25rem;
    height: 1.25rem;
    margin: 0.125rem;
    accent-color: var(--sapSelectedColor);
    cursor: pointer;
    vertical-align: middle;
  }
  input[type="checkbox"]:focus-visible {
    outline: var(--sapContent_FocusWidth, 2px) solid var(--sapContent_FocusColor);
    outline-offset: 1px;
  }
  .toolbar {
    display: flex;
    flex-wrap: wrap;
    gap: 0.5rem;
    align-items: end;
  }
  .field {
    display: flex;
    flex-direction: column;
    gap: 0.25rem;
    min-width: 0;
  }
  .field > label,
  .field > .label {
    color: var(--sapContent_LabelColor);
    font-size: var(--sapFontSmallSize);
  }
  .field > ui5-select,
  .field > ui5-input {
    margin: 0;
    width: 100%;
    min-width: 9rem;
  }
  .mark {
    display: inline-grid;
    place-items: center;
    flex: none;
    width: 1.75rem;
    height: 1.25rem;
    border-radius: 0.25rem;
    border: 1px solid var(--sapAvatar_10_BorderColor);
    background: var(--sapAvatar_10_Background);
    color: var(--sapAvatar_10_TextColor);
    font-family: var(--sapFontBoldFamily);
    font-size: 0.625rem;
    line-height: 1;
  }
  .mark.large {
    width: 2.5rem;
    height: 2.5rem;
    border-radius: 0.5rem;
    font-size: 0.875rem;
  }
  .mark ui5-icon {
    width: 1.25rem;
    height: 1.25rem;
    color: inherit;
  }
  .provider {
    display: inline-flex;
    gap: 0.5rem;
    align-items: center;
    white-space: nowrap;
  }
  .shares {
    display: flex;
    gap: 2px;
    height: 0.5rem;
    border-radius: 0.25rem;
    overflow: hidden;
  }
  .shares i {
    flex: 1 1 0;
    min-width: 3px;
    background: currentColor;
  }
  .tone-positive {
    color: var(--sapPositiveElementColor, var(--sapPositiveColor));
  }
  .tone-negative {
    color: var(--sapNegativeElementColor, var(--sapNegativeColor));
  }
  .tone-critical {
    color: var(--sapCriticalElementColor, var(--sapCriticalColor));
  }
  .tone-info {
    color: var(--sapInformativeElementColor, var(--sapInformativeColor));
  }
  .tone-neutral {
    color: var(--sapNeutralElementColor, var(--sapNeutralColor));
  }
  .progress {
    height: 0.5rem;
    border-radius: 0.25rem;
    background: var(--sapNeutralBackground);
    border: 1px solid var(--sapNeutralBorderColor);
    overflow: hidden;
  }
  .progress > div {
    height: 100%;
    background: var(--sapInformativeElementColor, var(--sapHighlightColor));
    transition: width 0.3s;
  }
  .progress > div.full {
    background: var(--sapPositiveElementColor, var(--sapPositiveColor));
  }
  pre {
    margin: 0;
    padding: 0.75rem 1rem;
    overflow: auto;
    max-height: 24rem;
    background: var(--sapField_ReadOnly_Background, var(--sapBackgroundColor));
    border: 1px solid var(--sapGroup_ContentBorderColor);
    border-radius: 0.5rem;
    font-family: "72Mono", monospace;
    font-size: 0.8125rem;
    line-height: 1.5;
    white-space: pre-wrap;
    overflow-wrap: anywhere;
  }
  .timeline > li {
    position: relative;
    padding-inline-start: 1.75rem;
    padding-block-end: 0.875rem;
  }
  .timeline > li::before {
    content: "";
    position: absolute;
    inset-inline-start: 0.4375rem;
    top: 1.25rem;
    bottom: -0.25rem;
    width: 1px;
    background: var(--sapList_BorderColor);
  }
  .timeline > li:last-child::before {
    display: none;
  }
  .timeline > li > .dot {
    position: absolute;
    inset-inline-start: 0;
    top: 0.125rem;
    width: 1rem;
    height: 1rem;
    color: var(--sapContent_NonInteractiveIconColor);
  }
  .timeline > li.now > .dot {
    color: var(--sapPositiveElementColor, var(--sapPositiveColor));
  }
  .timeline > li.warning > .dot {
    color: var(--sapCriticalElementColor, var(--sapCriticalColor));
  }
  .sr {
    position: absolute;
    width: 1px;
    height: 1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
  .skeleton {
    border-radius: 0.5rem;
    background: var(--sapContent_Placeholderloading_Background, var(--sapNeutralBackground));
    opacity: 0.45;
    animation: breathe 1.4s ease-in-out infinite alternate;
  }
  @keyframes breathe {
    to {
      opacity: 0.2;
    }
  }
  @media (prefers-reduced-motion: reduce) {
    * {
      animation: none !important;
      transition: none !important;
    }
  }
  .empty {
    display: flex;
    flex-direction: column;
    align-items: center;
    text-align: center;
    gap: 0.75rem;
    padding: 3rem 1rem;
    max-width: 36rem;
    margin-inline: auto;
  }
  .empty .picture {
    width: 4.5rem;
    height: 4.5rem;
    border-radius: 50%;
    display: grid;
    place-items: center;
    background: var(--sapInformationBackground);
    color: var(--sapInformativeElementColor, var(--sapHighlightColor));
  }
  .empty .picture ui5-icon {
    width: 2rem;
    height: 2rem;
    color: inherit;
  }
  .columns {
    display: grid;
    grid-template-columns: minmax(0, 2fr) minmax(0, 1fr);
    gap: 1rem;
    align-items: start;
  }
  @media (max-width: 60rem) {
    .columns {
      grid-template-columns: minmax(0, 1fr);
    }
  }
`;
